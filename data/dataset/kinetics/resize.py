"""Videos -> smaller mp4 files with many key frames: they are read faster and take less space.

    python data/dataset/kinetics/resize.py --list data/dataset/kinetics/mp4/train.list \\
        --out data/dataset/kinetics/train_256 --out_list data/dataset/kinetics/mp4/train_256.list
    python data/dataset/kinetics/resize.py --videos my_videos --out my_videos_256

--list reads "path label" lines and keeps the labels; --videos takes every video below a folder and keeps its
sub-folders. Frames, their times and the aspect ratio stay as they are; larger videos are made smaller,
smaller ones are only encoded anew; sides are even numbers. The video is h264 (mpeg4 where PyAV lacks
libx264); the first audio stream is copied unless --drop_audio. A file is there when it is whole: a second
run goes on where the first one stopped. Videos that cannot be read are named, the others go on, and the
exit status is 1.
"""

from __future__ import annotations

import argparse
import errno
import functools
import heapq
import sys
from collections import deque
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import PictureType

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs, videos
from data.dataset.common.convert import (
    Done,
    add_flags,
    convert,
    finish,
    parser,
    positive,
    read_jobs,
    write_out_list,
)
from data.dataset.common.outputs import Job
from reader.common.filelist import Line
from utils import cli
from utils.errors import ConfigError, DataError

# What is the disk's fault and not the video's: it ends the run.
NO_PLACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EROFS, errno.EACCES, errno.EIO)
MPEG4_TIME_BASE = Fraction(1, 1000)  # mpeg4 knows no finer one than 1/65535
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG
UNKNOWN_RATE = Fraction(25)
DISORDER = 8  # frames whose times may be out of order


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    source = flags.add_mutually_exclusive_group(required=True)
    source.add_argument("--list", help="videos: 'path label' lines")
    source.add_argument("--videos", help="folder of videos")
    add_flags(flags, "the new videos")
    flags.add_argument(
        "--short_side", type=positive, default=256, help="short side of larger videos, pixels (default: 256)"
    )
    flags.add_argument("--key_frame_interval", type=positive, default=8, help="frames (default: 8)")
    flags.add_argument(
        "--crf",
        type=int,
        default=20,
        help="h264 quality: 0 best, 51 worst, 18 looks like the source (default: 20)",
    )
    flags.add_argument("--drop_audio", action="store_true", help="leave the sound out")
    args = flags.parse_args(argv)
    jobs = read_jobs(args, ".mp4") if args.list else jobs_below(args)
    how = {name: getattr(args, name) for name in ("short_side", "key_frame_interval", "crf", "drop_audio")}
    outputs.claim(args.out, {"form": "mp4", "codec": codec(), **how})
    work = functools.partial(make, **how, threads=min(args.num_workers, 1))
    results = convert(jobs, work, args.num_workers, "resize")
    write_out_list(args, [list_line(job) for job, _ in results])
    before, after = (
        sum(getattr(done, name) for _, done in results) for name in ("bytes_before", "bytes_after")
    )
    print(f"{before / 1e6:.1f} MB before, {after / 1e6:.1f} MB after")
    return finish(jobs, results)


def jobs_below(args: argparse.Namespace) -> list[Job]:
    """The jobs of ``--videos``. Raises DataError, ConfigError."""
    if args.out_list or args.root:
        raise ConfigError("--out_list and --root go with --list; after --videos use make_lists.py")
    found = outputs.find_videos(args.videos)
    inside = Path(args.out).resolve()
    found = [path for path in found if inside not in path.resolve().parents]  # what an earlier run made
    if not found:
        raise DataError(f"{args.videos}: no video below this folder")
    return outputs.plan([Line(str(path), None, "--videos") for path in found], args.out, args.videos, ".mp4")


def codec() -> str:
    """The encoder: libx264, or mpeg4 where this PyAV is built without it."""
    try:
        av.codec.Codec("libx264", "w")
    except ValueError:  # av.codec.codec.UnknownCodecError
        return "mpeg4"
    return "libx264"


def make(
    job: Job, short_side: int, key_frame_interval: int, crf: int, drop_audio: bool, threads: int
) -> Done:
    """Write one video unless it is there. Raises DataError for what cannot be read or encoded."""
    source, note = job.line.path, ""
    made = not job.target.exists()
    if made:
        with videos.Video(source, threads) as video, outputs.whole(job.target) as temporary:
            try:
                with av.open(str(temporary), "w", format="mp4") as container:
                    writer = Writer(container, video, short_side, key_frame_interval, crf, threads)
                    note = writer.write(audio=not drop_audio)
            except av.FFmpegError as error:
                if error.errno in NO_PLACE:
                    raise OSError(error.errno, error.strerror) from error
                raise DataError(f"{source}: cannot be encoded anew ({error})") from error
    return Done(
        made, bytes_before=Path(source).stat().st_size, bytes_after=job.target.stat().st_size, note=note
    )


class Writer:
    """Encodes an open video into an open mp4 container."""

    def __init__(
        self,
        container: av.container.OutputContainer,
        video: videos.Video,
        short_side: int,
        key_frame_interval: int,
        crf: int,
        threads: int,
    ) -> None:
        self.container, self.video, self.short_side = container, video, short_side
        self.key_frame_interval, self.crf, self.threads = key_frame_interval, crf, threads
        self.codec = codec()
        self.rate = video.stream.average_rate or video.stream.guessed_rate or UNKNOWN_RATE
        self.time_base = video.stream.time_base if self.codec == "libx264" else MPEG4_TIME_BASE
        self.stream: av.VideoStream | None = None  # made for the first frame, whose size it needs
        self.waiting: deque[av.VideoFrame] = deque()
        self.times: list[int] = []  # a heap: of the waiting frames, in time_base
        self.newest = self.last = -1  # times read and written

    def write(self, audio: bool) -> str:
        """Encode everything; what could not be kept, or an empty string."""
        sound, early, note = None, [], ""
        if audio and self.video.audio is not None:
            name = self.video.audio.codec.canonical_name
            if name in self.container.supported_codecs:
                sound = self.container.add_stream_from_template(self.video.audio)
            else:
                note = f"its sound is left out: {name} does not fit into mp4"
        for item in self.video.frames(audio=sound is not None):
            if isinstance(item, av.VideoFrame):
                self._take(item)
            elif item.dts is not None:
                item.stream = sound
                early.append(item)
            if self.stream is not None:  # only now may packets be written
                for packet in early:
                    self.container.mux(packet)
                early = []
        while self.waiting:
            self._encode_next()
        for packet in early:
            self.container.mux(packet)
        self.container.mux(self.stream.encode())
        return note

    def _take(self, frame: av.VideoFrame) -> None:
        """Frames come in their order, but in some files their times do not, or are missing."""
        if frame.pts is None:
            time = self.newest + max(1, round(1 / (self.rate * self.time_base)))
        else:
            time = round(frame.pts * frame.time_base / self.time_base)
        self.newest = max(self.newest, time)
        heapq.heappush(self.times, time)
        self.waiting.append(frame)
        if len(self.waiting) > DISORDER:
            self._encode_next()

    def _encode_next(self) -> None:
        frame, time = self.waiting.popleft(), heapq.heappop(self.times)
        if self.stream is not None:
            time = max(time, self.last + 1)
        self.last = time
        if frame.rotation:
            frame = av.VideoFrame.from_image(videos.upright(frame))
        if self.stream is None:
            self.stream = self._open(frame)
        frame = frame.reformat(
            self.stream.width,
            self.stream.height,
            format="yuv420p",
            interpolation="BICUBIC",
            dst_color_range=LIMITED_RANGE,
        )
        frame.pts, frame.time_base = time, self.time_base
        frame.pict_type = PictureType.NONE  # the encoder decides, not the source
        self.container.mux(self.stream.encode(frame))

    def _open(self, frame: av.VideoFrame) -> av.VideoStream:
        # No B-frames: then every decoder gives the same frames in the same order from any key frame.
        h264 = {"crf": str(self.crf), "bf": "0"}
        mpeg4 = {"flags": "+qscale", "global_quality": str(118 * 3)}  # quantiser 3: nearly as the source
        options = h264 if self.codec == "libx264" else mpeg4
        stream = self.container.add_stream(self.codec, rate=self.rate, options=options)
        stream.width, stream.height = even_size(frame.width, frame.height, self.short_side)
        stream.pix_fmt, stream.time_base = "yuv420p", self.time_base
        context = stream.codec_context
        context.time_base, context.gop_size, context.thread_count = (
            self.time_base,
            self.key_frame_interval,
            self.threads,
        )
        if self.video.stream.sample_aspect_ratio:
            context.sample_aspect_ratio = self.video.stream.sample_aspect_ratio
        context.color_range = LIMITED_RANGE
        if not frame.format.is_rgb:
            source = self.video.stream.codec_context
            context.colorspace = source.colorspace
            context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
        return stream


def even_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height with the short side ``short_side``, or as they are if smaller; even numbers."""
    smaller = min(width, height)
    if smaller <= short_side:
        return max(2, width // 2 * 2), max(2, height // 2 * 2)
    return tuple(max(2, round(side * short_side / smaller / 2) * 2) for side in (width, height))


def list_line(job: Job) -> str:
    return str(job.target) if job.line.number is None else f"{job.target} {job.line.number}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
