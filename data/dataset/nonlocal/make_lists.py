"""A list of videos -> the list of their clips, for eval.py and predict.py of Non-local.

    python data/dataset/nonlocal/make_lists.py --list data/dataset/nonlocal/vallist.txt \\
                                               --out data/dataset/nonlocal/testlist.txt

    my_videos/jump/a.mp4 0          a line of --list: path label (without a label too, for predict.py)
    my_videos/jump/a.mp4 0 3 1      a line of --out: path index start crop

Each video gets --starts times --crops lines: starting points spread evenly over it, and crops along its
longer side: 3, or 6 with the mirrored ones, or 1 in the centre. The index is the video's line in --list,
which is therefore TEST.filename_gt. Prints the command that evaluates the list.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser
from reader.common import filelist
from utils import cli
from utils.errors import ConfigError

MULTI_CROP = {1: 0, 3: 1, 6: 2}  # crops -> use_multi_crop


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--list", required=True, help="list of videos: path label")
    flags.add_argument("--out", required=True, help="list of clips to write")
    flags.add_argument("--starts", type=cli.natural, default=10, help="starting points a video (default: 10)")
    flags.add_argument("--crops", type=int, choices=(1, 3, 6), default=3, help="crops (default: 3)")
    args = flags.parse_args(argv)
    if args.starts < 1:
        raise ConfigError("--starts: expected 1 or more")
    videos = filelist.read_labelled(args.list, None)
    lines = [
        f"{video.path} {index} {start} {crop}"
        for index, video in enumerate(videos)
        for start in range(args.starts)
        for crop in range(args.crops)
    ]
    outputs.write_list(args.out, lines)
    print(f"{args.out}: {len(lines)} clips of {len(videos)} videos")
    if all(video.number is not None for video in videos):
        keys = {
            "TEST.filelist": args.out,
            "TEST.filename_gt": args.list,
            "TEST.dataset_size": len(videos),
            "TEST.num_test_clips": args.starts * args.crops,
            "TEST.use_multi_crop": MULTI_CROP[args.crops],
        }
        command = ["python", "eval.py", "--model_name=NONLOCAL", "-o"]
        print(f"\nEvaluate:\n  {shlex.join([*command, *(f'{key}={value}' for key, value in keys.items())])}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
