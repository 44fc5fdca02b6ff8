"""Pictures of the particle world, drawn with Pillow: no display, no OpenGL."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dof_lightning.envs.particle.scenarios import Body

SIZE = 400
_SUPERSAMPLING = 2
_CANVAS = SIZE * _SUPERSAMPLING
_SMALLEST_VIEW = 1.35

_Color = tuple[int, int, int, int]
_BACKGROUND: _Color = (250, 250, 247, 255)
_ARENA: _Color = (205, 205, 200, 255)
_INK: _Color = (40, 40, 40, 255)
_WHITE: _Color = (255, 255, 255, 255)
# In the order of drawing: large things first, so that small ones stay visible on top of them.
_COLORS: dict[str, _Color] = {
    "forest": (120, 180, 110, 110),
    "obstacle": (90, 90, 95, 255),
    "agent": (70, 120, 220, 235),
    "predator": (215, 60, 55, 235),
    "prey": (30, 160, 140, 255),
    "target": (30, 30, 35, 255),
    "food": (240, 170, 20, 255),
}
_AGENTS = ("agent", "predator", "prey")


def draw(bodies: Sequence[Body], positions: np.ndarray, caption: str) -> np.ndarray:
    """Draws one moment of one episode.

    The view is at least [-1.35, 1.35]^2 and grows to include agents that leave it; the outlined square is [-1, 1]^2.

    Args:
        bodies: landmarks and agents.
        positions: `[len(bodies), 2]`, in lengths, y upwards.
        caption: a line of text in the upper left corner.

    Returns:
        `[400, 400, 3]` uint8.
    """
    view = max(_SMALLEST_VIEW, float(np.abs(positions).max()) + 0.2)
    scale = _CANVAS / (2 * view)
    image = Image.new("RGB", (_CANVAS, _CANVAS), _BACKGROUND[:3])
    canvas = ImageDraw.Draw(image, "RGBA")
    canvas.rectangle(_box(np.zeros(2), 1.0, scale), outline=_ARENA, width=2 * _SUPERSAMPLING)
    for index in sorted(range(len(bodies)), key=lambda i: list(_COLORS).index(bodies[i].kind)):
        box, kind = _box(positions[index], bodies[index].radius, scale), bodies[index].kind
        outline = _INK if kind in _AGENTS else None
        canvas.ellipse(box, fill=_COLORS[kind], outline=outline, width=_SUPERSAMPLING)
    for number, index in enumerate(index for index, body in enumerate(bodies) if body.kind in _AGENTS):
        canvas.text(_pixel(positions[index], scale), str(number), fill=_WHITE, font=_font(12), anchor="mm")
    canvas.text((8 * _SUPERSAMPLING, 6 * _SUPERSAMPLING), caption, fill=_INK, font=_font(13))
    small = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.uint8).copy()


def _box(position: np.ndarray, radius: float, scale: float) -> tuple[float, float, float, float]:
    x, y = _pixel(position, scale)
    return x - radius * scale, y - radius * scale, x + radius * scale, y + radius * scale


def _pixel(position: np.ndarray, scale: float) -> tuple[float, float]:
    return _CANVAS / 2 + float(position[0]) * scale, _CANVAS / 2 - float(position[1]) * scale


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * _SUPERSAMPLING)
