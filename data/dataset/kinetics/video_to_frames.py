"""Videos -> folders of images img_00001.jpg, img_00002.jpg, ..., for recipes with MODEL.format: frames.

    python data/dataset/kinetics/video_to_frames.py --list data/dataset/kinetics/mp4/train.list \\
        --out data/dataset/kinetics/train_frames --out_list data/dataset/kinetics/train_frames.list

Reads a list of "path label" lines and writes one of "folder count label" lines. A folder is there when it
is whole: a second run goes on where the first one stopped. Videos that cannot be read are named with their
line, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

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
from utils.errors import DataError


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--list", required=True, help="videos: 'path label' lines")
    add_flags(flags, "the folders")
    add_image_flags(flags)
    args = flags.parse_args(argv)
    jobs = read_jobs(args, "")
    images = {"quality": args.quality, "short_side": args.short_side}
    outputs.claim(args.out, {"form": "frames", **images})
    work = functools.partial(make, **images, threads=min(args.num_workers, 1))
    results = convert(jobs, work, args.num_workers, "video to frames")
    write_out_list(args, [list_line(job, done.num_frames) for job, done in results])
    return finish(jobs, results)


def make(job: Job, quality: int, short_side: int | None, threads: int) -> Done:
    """Write the folder of one video unless it is there. Raises DataError."""
    if job.target.exists():
        return Done(made=False, num_frames=count_images(job.target))
    with outputs.whole(job.target) as folder:
        folder.mkdir()
        for number, image in enumerate(videos.images(job.line.path, short_side, threads), 1):
            image.save(folder / name(number), quality=quality)
    return Done(made=True, num_frames=number)


def count_images(folder: Path) -> int:
    """How many images a folder of this tool holds. Raises DataError where it is none."""
    count = len(os.listdir(folder)) if folder.is_dir() else 0
    if count == 0 or not all((folder / name(number)).is_file() for number in range(1, count + 1)):
        raise DataError(f"{folder}: is in the way: not {name(1)}, {name(2)}, … to the last; move it away")
    return count


def name(number: int) -> str:
    """The file name of an image, as reader.common.decode reads it."""
    return f"img_{number:05d}.jpg"


def list_line(job: Job, num_frames: int) -> str:
    label = "" if job.line.number is None else f" {job.line.number}"
    return f"{job.target} {num_frames}{label}"


if __name__ == "__main__":
    sys.exit(cli.run(main))
