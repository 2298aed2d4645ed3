"""YouTube-8M's frame-level TFRecords -> pickles of 2019's form, a file each. No TensorFlow is needed.

    python data/dataset/youtube8m/tfrecord_to_pkl.py --source yt8m/train \\
        --out data/dataset/youtube8m/pkl/train --out_list data/dataset/youtube8m/train.list

A pickle is a list of dicts: ``video`` (id), ``feature`` uint8 [n, 1024], ``audio`` uint8 [n, 128], ``label``
(ids), ``nframes``. The readers read TFRecords as they are, too: pickles are for other programs, and for
trees of 2019.

Every record is checked by its CRC. A file that is damaged, or that is of the video level, is named, the
others go on, and the exit status is 1. A pickle is there when it is whole: a second run goes on where the
first one stopped.
"""

from __future__ import annotations

import functools
import pickle
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs, parallel
from data.dataset.common.convert import Done, convert, finish, parser, write_out_list
from data.dataset.common.outputs import Job
from reader.common import feature_files, filelist
from utils import cli, files

STREAMS = ("rgb", "audio")


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--source", required=True, help="a TFRecord, a folder of them (any depth), or a glob")
    flags.add_argument("--out", required=True, help="folder for the pickles")
    flags.add_argument("--out_list", help="list to write: the pickles that are there")
    flags.add_argument("--root", default="", help="keep the folders below this one in the names")
    parallel.add_flag(flags)
    args = flags.parse_args(argv)
    found = filelist.expand(args.source, (".tfrecord",), "TFRecord")
    jobs = outputs.plan(found, args.out, args.root, ".pkl")
    results = convert(jobs, functools.partial(make), args.num_workers, "TFRecord to pkl")
    write_out_list(args, [str(job.target) for job, _ in results])
    return finish(jobs, results)


def make(job: Job) -> Done:
    """Write the pickle of one file unless it is there. Raises DataError."""
    if is_whole(job.target):
        return Done(made=False)
    line = feature_files.Line(job.line.path, None, job.line.where)
    shard = feature_files.TFRecordFile(line)
    entries = []
    for number in range(len(shard)):
        record = shard.read(number, STREAMS, f"{line.path}, record {number}")
        entries.append(
            {
                "video": record.video,
                "feature": record.streams["rgb"],
                "audio": record.streams["audio"],
                "label": record.labels or [],
                "nframes": len(record.streams["rgb"]),
            }
        )
    files.write_atomic(job.target, dump(entries))
    return Done(made=True, num_frames=sum(entry["nframes"] for entry in entries))


def dump(entries: list[dict[str, Any]]) -> bytes:
    """As 2019 wrote them, but with protocol 4: half the size of Python 3's protocol 2."""
    return pickle.dumps(entries, protocol=4)


def is_whole(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            stream.seek(-1, 2)
            return stream.read() == pickle.STOP
    except OSError:  # absent or empty
        return False


if __name__ == "__main__":
    sys.exit(cli.run(main))
