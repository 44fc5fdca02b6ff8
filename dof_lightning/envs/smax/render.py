"""Pictures of a SMAX battle, drawn with Pillow: no display."""

import numpy as np
from PIL import Image, ImageDraw

SIZE = 400
MAP_WIDTH = 32.0  # lengths; SMAX's maps are square

_BACKGROUND, _INK = (250, 250, 247), (40, 40, 40)
_ALLY, _ENEMY = (70, 120, 220), (215, 60, 55)
_SCALE = SIZE / MAP_WIDTH


def draw(positions: np.ndarray, health: np.ndarray, radii: np.ndarray, n_allies: int, caption: str) -> np.ndarray:
    """Draws one moment of one battle.

    Args:
        positions: `[U, 2]`, allies first, y upwards.
        health: `[U]`, shares of each unit's full health; 0 is dead.
        radii: `[U]`.
        n_allies: how many of the U units are allies.
        caption: a line of text in the upper left corner.

    Returns:
        `[400, 400, 3]` uint8.
    """
    image = Image.new("RGB", (SIZE, SIZE), _BACKGROUND)
    canvas = ImageDraw.Draw(image)
    for number, ((x, y), share, radius) in enumerate(zip(positions * _SCALE, health, radii * _SCALE, strict=True)):
        color, y = _ALLY if number < n_allies else _ENEMY, SIZE - y
        box = (x - radius, y - radius, x + radius, y + radius)
        canvas.ellipse(box, fill=color if share > 0 else None, outline=color)
        if share > 0:
            canvas.line(
                (x - radius, y - radius - 3, x - radius + 2 * radius * share, y - radius - 3), fill=_INK, width=2
            )
    canvas.text((8, 6), caption, fill=_INK)
    return np.asarray(image, dtype=np.uint8).copy()
