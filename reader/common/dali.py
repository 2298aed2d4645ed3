"""Frames of videos by NVIDIA DALI (``use_dali: True``): on a GPU by its decoder (NVDEC), else on the CPU.

DALI is optional: ``pip install nvidia-dali-cuda120`` (``-cuda110``, ``-cuda130`` for other drivers). Its CPU
decoder (2.4) knows VP8, VP9 and AV1 only: H.264 and MPEG-4 need a GPU, and OpenCV reads them without one.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import paddle
from PIL import Image

from utils.errors import DataError

log = logging.getLogger(__name__)
PACKAGE = "nvidia-dali-cuda120"


def available() -> bool:
    """Whether DALI is installed; a line of the log says what to install."""
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        return True
    log.warning(
        f"use_dali: NVIDIA DALI is not installed (pip install {PACKAGE}); videos are decoded on the CPU"
    )
    return False


def on_gpu() -> bool:
    return paddle.device.get_device().startswith("gpu")


def video_frames(path: str, num_frames: int, choose: Callable[[int], list[int]]) -> list[Image.Image]:
    """The frames, out of ``num_frames``, that ``choose`` asks for, in its order, decoded in this process.

    Raises DataError for a file that DALI cannot decode.
    """
    wanted = choose(num_frames)
    unique = sorted(set(wanted))  # DALI decodes from front to back
    pipeline = _pipeline(int(paddle.device.get_device().partition(":")[2]) if on_gpu() else None)
    try:
        pipeline.feed_input("encoded", [np.fromfile(path, np.uint8)])
        pipeline.feed_input("frames", [np.array(unique, np.int32)])
        (output,) = pipeline.run()
    except (OSError, RuntimeError) as error:
        _pipeline.cache_clear()  # an error leaves a pipeline unusable
        lines = [line.strip() for line in str(error).splitlines() if "failed" in line.lower()]
        raise DataError(f"{path}: DALI cannot decode it ({(lines or [str(error)])[-1][:200]})") from error
    frames = np.array((output.as_cpu() if on_gpu() else output)[0])  # (F, H, W, 3)
    images = {index: Image.fromarray(frame) for index, frame in zip(unique, frames, strict=True)}
    return [images[index] for index in wanted]


@cache
def _pipeline(device_id: int | None) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=1, num_threads=2, device_id=device_id, prefetch_queue_depth=1)
    def decode():
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        frames = fn.external_source(name="frames", dtype=types.INT32, ndim=1)
        return fn.decoders.video(encoded, frames=frames, device="cpu" if device_id is None else "mixed")

    pipeline = decode()
    pipeline.build()
    return pipeline
