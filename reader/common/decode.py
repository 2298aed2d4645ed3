"""Frames out of video files and of pickled JPEGs."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence

import cv2
from paddle.io import get_worker_info
from PIL import Image, UnidentifiedImageError

from utils.errors import DataError

TOLERATED = 0.1  # of the reported frames may be missing: some containers only estimate their number
Choose = Callable[[int], list[int]]  # number of frames -> indices wanted, in any order, with repeats


def video_frames(path: str, choose: Choose) -> list[Image.Image]:
    """The frames of a video that ``choose`` asks for, in its order.

    Only these are converted to images, yet the result is bit-identical to reading all: the container's
    frame count decides first, and if decoding ends elsewhere, the choice is made again for the true
    count. ``choose`` must give the same answer for the same count.

    Raises DataError: the file is missing, is no video, or is damaged: OpenCV stops at the damage
    without a word, so the frames read are compared with those reported.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file")
    frames, count, reported = _grab(path, choose)
    if count == 0 or count < reported - max(2, TOLERATED * reported):
        raise DataError(f"{path}: damaged: only {count} of {reported} frames can be decoded")
    indices = choose(count)
    if any(index not in frames for index in indices):
        frames, *_ = _grab(path, lambda _: indices)
    return [frames[index] for index in indices]


def _open(path: str) -> cv2.VideoCapture:
    # One decoder thread a reader process: the processes together fill the cores already.
    options = [cv2.CAP_PROP_N_THREADS, 1] if get_worker_info() else []
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, options)
    if not capture.isOpened():
        capture.release()
        size = os.path.getsize(path)
        raise DataError(f"{path}: " + ("the file is empty" if size == 0 else "not a readable video"))
    return capture


def _grab(path: str, choose: Choose) -> tuple[dict[int, Image.Image], int, int]:
    """Frames by index, chosen by the reported count; how many frames there really are; that count."""
    capture = _open(path)
    reported = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = set(choose(max(reported, 1)))
    frames: dict[int, Image.Image] = {}
    count = 0
    while capture.grab():
        if count in wanted:
            ok, image = capture.retrieve()
            if not ok:
                break
            frames[count] = Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        count += 1
    capture.release()
    return frames, count, reported


def jpeg_frames(path: str, jpegs: Sequence[bytes], choose: Choose) -> list[Image.Image]:
    """The pickled JPEGs that ``choose`` asks for, decoded to RGB. Raises DataError."""
    if len(jpegs) == 0:
        raise DataError(f"{path}: holds no frame")
    images: dict[int, Image.Image] = {}
    indices = choose(len(jpegs))
    for index in set(indices):
        try:
            images[index] = Image.open(io.BytesIO(jpegs[index])).convert("RGB")
        except (UnidentifiedImageError, OSError, TypeError, ValueError) as error:
            raise DataError(f"{path}: frame {index} is not a readable image ({error})") from error
    return [images[index] for index in indices]
