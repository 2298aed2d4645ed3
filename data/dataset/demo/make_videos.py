"""A small labelled video set, drawn: shapes that move over coloured grounds, with lists and class names.

    python data/dataset/demo/make_videos.py --out data/demo/videos

Two groups of classes. ``appearance``: one frame tells them apart (which shape is it?), whatever its colour,
size, place, angle, path and ground. ``order``: pairs of classes whose clips hold the same frames, in one
and in the other order (rising and falling, growing and shrinking), so that a mean over frames cannot tell
them apart, but a network that sees time can. All of them stay what they are in a mirror, because training
flips clips at random.

Writes train/, val/ and test/ with mp4 files, ``train.list``, ``val.list``, ``test.list`` (``path label``
lines, absolute paths), ``examples.list`` (one test clip a class), ``labels.json`` (class names by id) and
``manifest.json`` (how it was made; ``classes`` with the group of each). The same arguments make the same
set; a set that is whole is left as it is, and one that was interrupted is completed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

VERSION = 1  # of the drawings: raise it whenever the same arguments give other files
SIZE = 72  # pixels, width and height
NUM_FRAMES = 24  # so that 3, 4, 6 and 8 segments are of equal length
FPS = 12
SPLITS = ("train", "val", "test")
CLIPS = (60, 10, 25)  # a class, by split


@dataclass(frozen=True)
class Kind:
    """A class of clips. ``reverse_of`` names the class whose frames it shows backwards."""

    name: str
    group: str
    shape: str
    motion: str
    reverse_of: str | None = None


KINDS = (
    Kind("moving_ring", "appearance", "ring", "across"),
    Kind("moving_cross", "appearance", "cross", "across"),
    Kind("moving_stripes", "appearance", "stripes", "across"),
    Kind("moving_checkerboard", "appearance", "checkerboard", "across"),
    Kind("rising_disc", "order", "disc", "rise"),
    Kind("falling_disc", "order", "disc", "rise", "rising_disc"),
    Kind("growing_square", "order", "square", "grow"),
    Kind("shrinking_square", "order", "square", "grow", "growing_square"),
)


def draw(kind: Kind, split: str, number: int, seed: int = 0) -> np.ndarray:
    """One clip, ``(T, H, W, 3)`` uint8 RGB. Split, number and seed of a pair of kinds share their frames."""
    names = [other.name for other in KINDS]
    source = names.index(kind.reverse_of or kind.name)
    rng = np.random.default_rng([seed, SPLITS.index(split), source, number])
    ground = _ground(rng)  # (H, W, 3)
    colour = _contrasting(rng, ground.mean(axis=(0, 1)))
    time = np.linspace(0, 1, NUM_FRAMES)
    x, y, radius = _path(rng, kind.motion, time)  # (T,) each, pixels
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.5, 0.5) * time
    if kind.motion != "across":
        angle = np.zeros(NUM_FRAMES)
    alpha = _shape(kind.shape, x, y, radius, angle)[..., None]  # (T, H, W, 1)
    frames = np.rint(ground + alpha * (colour - ground)).astype(np.uint8)
    return frames[::-1] if kind.reverse_of else frames


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Two colours that run into each other in large soft patches."""
    first, second = rng.uniform(20, 235, (2, 3))
    patches = cv2.resize(rng.uniform(0, 1, (4, 4)), (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    mix = np.clip(patches, 0, 1)[..., None] * rng.uniform(0.2, 0.6)
    return first + mix * (second - first)


def _contrasting(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A colour that can be seen on ``ground``."""
    while True:
        colour = rng.uniform(10, 245, 3)
        if np.linalg.norm(colour - ground) > 130:
            return colour


def _path(rng: np.random.Generator, motion: str, time: np.ndarray) -> tuple[np.ndarray, ...]:
    """Centre (x, y) and radius in each frame."""
    middle = SIZE / 2 + rng.uniform(-6, 6, 2)
    if motion == "across":
        way, heading = rng.uniform(10, 26), rng.uniform(0, 2 * np.pi)
        along = way * (time - 0.5)
        radius = np.full(NUM_FRAMES, rng.uniform(14, 21))
        return middle[0] + along * np.cos(heading), middle[1] + along * np.sin(heading), radius
    x = np.full(NUM_FRAMES, middle[0])
    if motion == "rise":
        way = rng.uniform(30, 40)
        return x, middle[1] + way * (0.5 - time), np.full(NUM_FRAMES, rng.uniform(9, 14))
    small, large = rng.uniform(5, 8), rng.uniform(20, 26)
    return x, np.full(NUM_FRAMES, middle[1]), small + (large - small) * time


def _shape(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Coverage 0 to 1 of each pixel in each frame, ``(T, H, W)``, with soft edges."""
    x, y, radius, angle = (value[:, None, None] for value in (x, y, radius, angle))
    row, column = np.mgrid[:SIZE, :SIZE]
    dx, dy = (column - x) / radius, (row - y) / radius
    u = np.cos(angle) * dx + np.sin(angle) * dy  # the shape's own axes, in radii
    v = np.cos(angle) * dy - np.sin(angle) * dx
    box = 0.9 - np.maximum(abs(u), abs(v))
    # What follows is the distance to the nearest edge, in radii, positive inside.
    if shape == "disc":
        inside = 1 - np.hypot(u, v)
    elif shape == "ring":
        inside = 0.22 - abs(np.hypot(u, v) - 0.78)
    elif shape == "cross":
        inside = np.minimum(1 - np.maximum(abs(u), abs(v)), 0.28 - np.minimum(abs(u), abs(v)))
    elif shape == "stripes":
        inside = np.minimum(box, 0.18 * np.sin(u * np.pi / 0.36))
    elif shape == "checkerboard":
        inside = np.minimum(box, 0.25 * np.sin(u * np.pi / 0.45) * np.sin(v * np.pi / 0.45))
    else:
        inside = box
    return np.clip(0.5 + inside * radius, 0, 1)
