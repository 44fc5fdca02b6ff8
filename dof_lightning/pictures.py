"""Encoding of frames as moving pictures, without a video library."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


def encode_gif(frames: Sequence[np.ndarray], frames_per_second: float) -> bytes:
    """Encodes `[height, width, 3]` uint8 pictures as a GIF that repeats endlessly."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    duration = round(1000.0 / frames_per_second)
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=duration, loop=0)
    return buffer.getvalue()
