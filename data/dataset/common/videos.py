"""Videos read frame by frame with PyAV: one frame in memory at a time, any format that FFmpeg knows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType

import av
from PIL import Image

from utils.errors import DataError

TOLERATED = 0.1  # of the reported frames may be missing, as in reader.common.decode


class Video:
    """An open video: ``with Video(path) as video: for frame in video.frames(): …``

    Args:
        threads: of the decoder; 0 = as many as it likes.

    Raises DataError: the file is missing, is no video, or is damaged.
    """

    def __init__(self, path: str, threads: int = 0) -> None:
        if not os.path.isfile(path):
            raise DataError(f"{path}: no such file")
        if os.path.getsize(path) == 0:
            raise DataError(f"{path}: the file is empty")
        self.path = path
        try:
            self.container = av.open(path)
        except (av.FFmpegError, ValueError) as error:
            raise DataError(f"{path}: not a readable video ({error})") from error
        if not self.container.streams.video:
            self.container.close()
            raise DataError(f"{path}: holds no video stream")
        self.stream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.stream.codec_context.thread_count = threads
        self.audio = next(iter(self.container.streams.audio), None)

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    def frames(self, audio: bool = False) -> Iterator[av.VideoFrame | av.Packet]:
        """Every frame, and with ``audio`` the packets of the first audio stream, in the file's order.

        A video of which a few frames cannot be decoded is used, as the readers use it.
        """
        count, num_packets, num_bad, reason, seconds = 0, 0, 0, None, None
        streams = [self.stream, self.audio] if audio and self.audio else [self.stream]
        packets = self.container.demux(streams)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, ValueError) as error:
                reason = error
                break
            if packet is None:
                break
            if packet.stream != self.stream:
                yield packet
                continue
            num_packets += 1
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError) as error:  # OpenCV, too, goes on with the next packet
                num_bad, reason = num_bad + 1, error
                continue
            for frame in frames:
                count, seconds = count + 1, frame.time
                yield frame
        if wrong := self._wrong(count, num_bad > _allowed(num_packets), seconds):
            raise DataError(f"{self.path}: {wrong}" + (f" ({reason})" if reason else ""))

    def _wrong(self, count: int, many_bad: bool, seconds: float | None) -> str:
        """What is wrong after ``count`` frames, the last of them at ``seconds``; else an empty string."""
        reported, duration = self.stream.frames, self.container.duration  # 0, None: not said
        if count == 0:
            return "not a readable video"
        if count < reported - _allowed(reported):
            return f"damaged: only {count} of {reported} frames can be decoded"
        if not reported and duration and seconds is not None:  # mkv, webm
            start, whole = (self.container.start_time or 0) / av.time_base, duration / av.time_base
            if seconds - start < (1 - TOLERATED) * whole - 2 / (self.stream.average_rate or 1):
                return f"damaged: decoding ends at {seconds - start:.1f} of {whole:.1f} seconds"
        return f"damaged: many frames cannot be decoded, {count} can" if many_bad else ""


def _allowed(total: int) -> float:
    return max(2, TOLERATED * total)


def images(path: str, short_side_pixels: int | None, threads: int = 0) -> Iterator[Image.Image]:
    """Every frame as an RGB image, turned as the metadata says.

    ``short_side_pixels`` makes larger ones smaller and keeps the aspect ratio. Raises DataError.
    """
    with Video(path, threads) as video:
        for frame in video.frames():
            image = upright(frame)
            if short_side_pixels and min(image.size) > short_side_pixels:
                scale = short_side_pixels / min(image.size)
                size = tuple(round(side * scale) for side in image.size)
                image = image.resize(size, Image.Resampling.BILINEAR)
            yield image


def upright(frame: av.VideoFrame) -> Image.Image:
    """The frame as an RGB image, turned as the metadata says."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image
