"""Image transforms of 2019: resize, crop, flip, normalise. Images are Pillow RGB images."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from utils.errors import DataError


def resize_short_side(images: list[Image.Image], size: int) -> list[Image.Image]:
    """Short side ``size``, long side always ``int(size * 4 / 3)``, whatever the aspect ratio was.

    Published weights were trained so. An image whose short side is already ``size`` stays as it is.
    """
    long_side = int(size * 4.0 / 3.0)
    resized = []
    for image in images:
        width, height = image.size
        if min(width, height) != size:
            shape = (size, long_side) if width < height else (long_side, size)
            image = image.resize(shape, Image.Resampling.BILINEAR)
        resized.append(image)
    return resized


def random_crop(images: list[Image.Image], size: int, rng: random.Random) -> list[Image.Image]:
    """The same random ``size`` x ``size`` window of every image."""
    width, height = _fitting(images, size)
    left = rng.randint(0, width - size)
    top = rng.randint(0, height - size)
    return [image.crop((left, top, left + size, top + size)) for image in images]


def multi_scale_crop(images: list[Image.Image], size: int, rng: random.Random) -> list[Image.Image]:
    """The same random window of every image, resized to ``size`` x ``size`` pixels.

    Its sides are 1, 0.875, 0.75 or 0.66 of the short side, and differ by at most one of these steps. It
    lies at one of up to 13 places: corners, centre, mid-edges, and halfway from the centre to the corners.
    """
    width, height = images[0].size
    sides = [int(min(width, height) * scale) for scale in (1, 0.875, 0.75, 0.66)]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    crop_width, crop_height = rng.choice(pairs)
    left, top = rng.choice(_places((width - crop_width) / 4, (height - crop_height) / 4))
    # Each edge is rounded by itself, halves to even, as in 2019: a side may come out a pixel longer.
    box = tuple(round(edge) for edge in (left, top, left + crop_width, top + crop_height))
    return [image.crop(box).resize((size, size), Image.Resampling.BILINEAR) for image in images]


def _places(x: float, y: float) -> list[tuple[float, float]]:
    """Left and top of the windows, x and y being a quarter of the room; in 2019's order."""
    corners = [(0, 0)] + [(4 * x, 0)] * (x != 0) + [(0, 4 * y)] * (y != 0)
    corners += [(4 * x, 4 * y)] * (x != 0 and y != 0)
    centre = [(2 * x, 2 * y)] * (x != 0 or y != 0)
    edges = [(0, 2 * y), (4 * x, 2 * y), (2 * x, 4 * y), (2 * x, 0)]
    quarters = [(x, y), (3 * x, y), (x, 3 * y), (3 * x, 3 * y)]
    return corners + centre + edges + quarters


def centre_crop(images: list[Image.Image], size: int) -> list[Image.Image]:
    """The central ``size`` x ``size`` window; halves round to even, as in 2019."""
    width, height = _fitting(images, size)
    left, top = round((width - size) / 2.0), round((height - size) / 2.0)
    return [image.crop((left, top, left + size, top + size)) for image in images]


def _fitting(images: list[Image.Image], size: int) -> tuple[int, int]:
    width, height = images[0].size
    if width < size or height < size:
        raise DataError(
            f"a {size} x {size} crop does not fit an image of {width} x {height}: "
            "target_size must not exceed short_size"
        )
    return width, height


def random_flip(images: list[Image.Image], rng: random.Random) -> list[Image.Image]:
    """All images mirrored left to right, or none, with equal chance."""
    if rng.random() >= 0.5:
        return images
    return [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]


def to_segments(images: list[Image.Image], seglen: int, mean: list[float], std: list[float]) -> np.ndarray:
    """Images to ``(S, 3 * seglen, H, W)`` float32: RGB / 255, minus ``mean``, over ``std``."""
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])  # (S*seglen, H, W, 3)
    pixels = pixels.transpose(0, 3, 1, 2) / np.float32(255)  # (S*seglen, 3, H, W)
    pixels -= np.asarray(mean, np.float32).reshape(3, 1, 1)
    pixels /= np.asarray(std, np.float32).reshape(3, 1, 1)
    return np.ascontiguousarray(pixels).reshape(-1, 3 * seglen, *pixels.shape[2:])
