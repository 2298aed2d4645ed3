"""Videos -> pickles of JPEG frames, the format of 2019: (id, label, [jpeg bytes, ...]), one file a video.

    python data/dataset/kinetics/video_to_pkl.py --list data/dataset/kinetics/mp4/train.list \\
        --out data/dataset/kinetics/train_pkl --out_list data/dataset/kinetics/train.list

Reads a list of "path label" lines; no ffmpeg program is needed. A pickle is there when it is whole: a
second run goes on where the first one stopped. Videos that cannot be read are named with their line, the
others go on, and the exit status is 1.
"""

from __future__ import annotations

import functools
import io
import pickle
import pickletools
import struct
import sys
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs, videos
from data.dataset.common.convert import (
    Done,
    add_flags,
    add_image_flags,
    convert,
    finish,
    parser,
    read_jobs,
    write_out_list,
)
from data.dataset.common.outputs import Job
from utils import cli

HEAD_BYTES = 4096  # the id and the label come first


class _Pickler(pickle._Pickler):
    """Protocol 2 with bytes as Python 2 wrote them.

    Python 3's own protocol 2 turns every byte above 127 into two: files half as large again.
    """

    def save_bytes(self, data: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch: ClassVar[dict] = {**pickle._Pickler.dispatch, bytes: save_bytes}


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--list", required=True, help="videos: 'path label' lines")
    add_flags(flags, "the pickles")
    add_image_flags(flags)
    args = flags.parse_args(argv)
    jobs = read_jobs(args, ".pkl")
    images = {"quality": args.quality, "short_side": args.short_side}
    outputs.claim(args.out, {"form": "pkl", **images})
    work = functools.partial(make, **images, threads=min(args.num_workers, 1))
    results = convert(jobs, work, args.num_workers, "video to pkl")
    write_out_list(args, [str(job.target) for job, _ in results])
    return finish(jobs, results)


def make(job: Job, quality: int, short_side: int | None, threads: int) -> Done:
    """Write the pickle of one video unless it is there. Raises DataError."""
    label = -1 if job.line.number is None else job.line.number
    if is_whole(job.target, label):
        return Done(made=False)
    jpegs = [jpeg(image, quality) for image in videos.images(job.line.path, short_side, threads)]
    with outputs.whole(job.target) as temporary, open(temporary, "wb") as file:
        _Pickler(file, protocol=2).dump((f"./{job.target.stem}", label, jpegs))
    return Done(made=True, num_frames=len(jpegs))


def jpeg(image: Any, quality: int) -> bytes:
    """A Pillow image as JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def is_whole(file: Path, label: int) -> bool:
    """Whether ``file`` is a pickle of this tool, to its last byte, and of this label."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(HEAD_BYTES)
            stream.seek(-1, io.SEEK_END)
            return stream.read() == pickle.STOP and _label(head) == label
    except OSError:  # absent or empty
        return False


def _label(head: bytes) -> int | None:
    try:
        for code, value, _ in pickletools.genops(head):
            if code.name in ("BININT", "BININT1", "BININT2", "LONG1"):
                return value
    except ValueError:  # no pickle
        pass
    return None


if __name__ == "__main__":
    sys.exit(cli.run(main))
