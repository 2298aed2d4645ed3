"""The videos to predict with BMN and BSN, ``INFER.filelist``: a JSON of records as in the annotations.

    cd data/dataset/bmn
    python gen_infer_list.py --annotations activitynet_1.3_annotations.json --features fix_feat_100 \\
        --subset validation --out infer.list

Videos whose features are missing are left out and counted. Actions stay in the list: pictures show them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common.convert import parser
from reader.common import activitynet
from utils import cli, files
from utils.errors import DataError


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--annotations", required=True, help="JSON of ActivityNet 1.3, as the models read it")
    flags.add_argument("--subset", default="testing", help="or a part of its name (default: testing)")
    flags.add_argument("--features", help="folder of features: list only videos that have them")
    flags.add_argument("--out", required=True, help="list to write")
    args = flags.parse_args(argv)
    videos = activitynet.read_annotations(args.annotations, args.subset)
    known = activitynet.read_json(args.annotations)
    listed = {video.name: known[video.name] for video in videos if _has_features(args.features, video)}
    if not listed:
        raise DataError(f"{args.features}: no features of a video of the subset {args.subset!r}")
    files.write_json(Path(args.out), listed)
    print(f"{args.out}: {len(listed)} videos, {len(videos) - len(listed)} left out without features")
    return 0


def _has_features(folder: str | None, video: activitynet.Video) -> bool:
    if folder is None:
        return True
    return any((Path(folder) / f"{video.name}{end}").is_file() for end in activitynet.FEATURE_SUFFIXES)


if __name__ == "__main__":
    sys.exit(cli.run(main))
