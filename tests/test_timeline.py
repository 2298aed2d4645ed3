"""Timelines: what is drawn where."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from utils.timeline import TRUTH, Segment, ticks, timeline
from utils.visualize import FIRST, png

figure = pytest.importorskip("matplotlib.figure")


def drawn(*args, **kwargs) -> np.ndarray:
    sheet = figure.Figure(dpi=100, facecolor="white")
    timeline(sheet, *args, **kwargs)
    return np.asarray(Image.open(io.BytesIO(png(sheet))).convert("RGB"))


def columns_of(image: np.ndarray, colour: str) -> np.ndarray:
    """Share of the sheet's width, from the left, where ``colour`` is found."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return np.flatnonzero((image == wanted).all(axis=2).any(axis=0)) / image.shape[1]


def test_a_bar_stands_where_its_seconds_are():
    image = drawn("a.mp4", 100.0, [Segment("jump", 0, 50, 0.9)], [Segment("jump", 50, 100)])
    found, truth = columns_of(image, FIRST), columns_of(image, TRUTH)
    assert abs(found.max() - truth.min()) < 0.01
    assert np.ptp(found) == pytest.approx(np.ptp(truth), abs=0.01)


def test_nothing_found_and_segments_outside_the_video_are_drawn_too():
    assert drawn("a.mp4", 10.0, []).size
    inside = drawn("a.mp4", 10.0, [Segment("x", -5, 99)])
    assert np.array_equal(inside, drawn("a.mp4", 10.0, [Segment("x", 0, 10)]))
    assert drawn("名前 $x$.npy", 0.0, [Segment("跳", 0, 1, 0.5)]).size


@pytest.mark.parametrize("seconds", [0.05, 1, 7.9, 8, 59, 3600, 1e5])
def test_ticks_are_few_and_inside(seconds):
    marks = ticks(seconds)
    assert marks[0] == 0 and 1 <= len(marks) <= 8 and marks[-1] <= seconds
