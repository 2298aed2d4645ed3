"""Frames out of video files, folders of images, and pickled JPEGs.

Two decoders of videos: OpenCV, whose frames are those of 2019, and PyAV, which is stricter and knows more
formats. Both give only the frames that are asked for, bit-identical to reading all of them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence

import av
import cv2
from paddle.io import get_worker_info
from PIL import Image, UnidentifiedImageError

from utils.errors import DataError

TOLERATED = 0.1  # of the reported frames may be missing: some containers only estimate their number
Choose = Callable[[int], list[int]]  # number of frames -> indices wanted, in any order, with repeats
Grabbed = tuple[dict[int, Image.Image], int, int]  # frames by index, frames decoded, frames reported


def video_frames(path: str, choose: Choose, backend: str = "opencv") -> list[Image.Image]:
    """The frames of a video that ``choose`` asks for, in its order, turned as its metadata says.

    Only these are converted to images: the container's frame count decides first, and if decoding ends
    elsewhere, the choice is made again for the true count. ``choose`` must give the same answer for the
    same count. ``backend`` is ``opencv`` (what it cannot open, PyAV tries) or ``pyav``.

    Raises DataError: the file is missing, is no video, or is damaged: OpenCV stops at the damage
    without a word, so the frames decoded are compared with those reported.
    """
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file")
    if os.path.getsize(path) == 0:
        raise DataError(f"{path}: the file is empty")
    grab = _grab_opencv if backend == "opencv" and _opencv_opens(path) else _grab_pyav
    frames, count, reported = grab(path, choose)
    if count == 0 and grab is _grab_opencv:  # its wheels open AV1, but decode nothing of it
        grab = _grab_pyav
        frames, count, reported = grab(path, choose)
    if count == 0 or count < reported - max(2, TOLERATED * reported):
        raise DataError(f"{path}: damaged: only {count} of {reported} frames can be decoded")
    indices = choose(count)
    if any(index not in frames for index in indices):
        frames, *_ = grab(path, lambda _: indices)
    return [frames[index] for index in indices]


def duration_second(path: str) -> float | None:
    """How long a video is, as its container says; None where it does not, or is no video."""
    try:
        with av.open(path) as container:
            stream = next(iter(container.streams.video), None)
            if container.duration:
                return container.duration / av.time_base
            if stream is not None and stream.frames and stream.average_rate:
                return float(stream.frames / stream.average_rate)
    except (av.FFmpegError, OSError):
        return None
    return None


def _open(path: str) -> cv2.VideoCapture:
    # One decoder thread a reader process: the processes together fill the cores already.
    options = [cv2.CAP_PROP_N_THREADS, 1] if get_worker_info() else []
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, options)
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # the default of newer versions only
    return capture


def reported_frames(path: str) -> int:
    """What the container says. Raises DataError for a file that is missing or no video."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file")
    capture = _open(path)
    reported = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if reported < 1:
        raise DataError(f"{path}: not a readable video")
    return reported


def _opencv_opens(path: str) -> bool:
    capture = _open(path)
    opened = capture.isOpened()
    capture.release()
    return opened


def _grab_opencv(path: str, choose: Choose) -> Grabbed:
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


def _grab_pyav(path: str, choose: Choose) -> Grabbed:
    frames: dict[int, Image.Image] = {}
    count = 0
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise DataError(f"{path}: holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "SLICE" if get_worker_info() else "AUTO"
            reported = stream.frames
            wanted = set(choose(max(reported, 1)))
            for frame in container.decode(stream):
                if count in wanted:
                    image = frame.to_image()
                    frames[count] = image.rotate(frame.rotation, expand=True) if frame.rotation else image
                count += 1
    except (av.FFmpegError, ValueError) as error:
        what = f"damaged: decoding stopped after {count} frames" if count else "not a readable video"
        raise DataError(f"{path}: {what} ({error})") from error
    return frames, count, reported


def folder_frames(folder: str, num_frames: int, choose: Choose) -> list[Image.Image]:
    """Images ``img_00001.jpg`` … of a folder that ``choose`` asks for; index 0 is number 1.

    Raises DataError, naming the image, for one that is missing or unreadable.
    """
    if num_frames < 1:
        raise DataError(f"{folder}: the list says {num_frames} frames")
    images: dict[int, Image.Image] = {}
    indices = choose(num_frames)
    for index in set(indices):
        path = os.path.join(folder, f"img_{index + 1:05d}.jpg")
        try:
            with Image.open(path) as image:
                images[index] = image.convert("RGB")
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such image; the list says {num_frames} frames") from error
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise DataError(f"{path}: not a readable image ({error})") from error
    return [images[index] for index in indices]


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
