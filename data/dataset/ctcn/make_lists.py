"""Annotated actions and features -> what C-TCN reads: a list, names of classes, durations, names of videos.

    python data/dataset/ctcn/make_lists.py --annotations activity_net.v1-3.min.json --subset training \\
                                           --feats data/dataset/ctcn/feats/rgb --out data/dataset/ctcn/train

Writes ``<out>.listformat`` (video, time steps, actions), ``<out>.list`` (names alone, for INFER.filelist),
``<out>_durations.list`` (TEST.video_duration_file) and, unless it is there, ``labels.txt`` beside them: the
labels of the whole annotation, sorted. An annotation is ``{video: {"duration", "subset", "annotations":
[{"label", "segment"}]}}``, seconds, alone or under "database"; "duration_second" is read, too. Videos without
features in ``--feats`` (``<video>.pkl`` or ``.npy``, with or without "v_") are named and left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser
from reader.ctcn_reader import read_features
from utils import cli
from utils.errors import ConfigError, DataError


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--annotations", required=True, help="JSON, see above")
    flags.add_argument("--subset", required=True, help="of the annotation: training, validation …")
    flags.add_argument("--feats", required=True, help="folder of the features of one stream")
    flags.add_argument("--out", required=True, help="what the names of the files begin with")
    args = flags.parse_args(argv)
    videos = read_annotation(args.annotations)
    labels = class_names(Path(args.out).with_name("labels.txt"), videos)
    lines, names, durations, missing = [], [], [], []
    for video, about in sorted(videos.items()):
        if about["subset"] != args.subset:
            continue
        file = find_features(Path(args.feats), video)
        if file is None:
            missing.append(video)
            continue
        frames = len(read_features(file))
        lines.append(line(file.stem, frames, about, labels, args.annotations))
        names.append(file.stem)
        durations.append(f"{file.stem} {frames} {about['seconds']}")
    if missing:
        shown = ", ".join(missing[:5])
        print(f"{len(missing)} videos have no features in {args.feats}: {shown} …", file=sys.stderr)
    if not lines:
        subsets = ", ".join(sorted({about["subset"] for about in videos.values()}))
        raise ConfigError(f"--subset {args.subset}: no video with features; subsets: {subsets}")
    outputs.write_list(f"{args.out}.listformat", lines)
    outputs.write_list(f"{args.out}.list", names)
    outputs.write_list(f"{args.out}_durations.list", durations)
    print(f"{args.out}.listformat: {len(lines)} videos; {len(labels)} classes")
    return 1 if missing else 0


def read_annotation(file: str) -> dict[str, dict[str, Any]]:
    """``{video: {"subset", "seconds", "actions": [(label, start, end)]}}``; raises DataError."""
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        videos = content.get("database", content)
        return {
            video: {
                "subset": str(about["subset"]),
                "seconds": float(about.get("duration_second", about.get("duration"))),
                "actions": [(str(one["label"]), *map(float, one["segment"])) for one in about["annotations"]],
            }
            for video, about in videos.items()
        }
    except OSError as error:
        raise DataError(f"{file}: cannot read it: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: not an annotation of actions ({error!r})") from error


def class_names(file: Path, videos: dict[str, dict[str, Any]]) -> list[str]:
    """The names in ``file``; made of all labels, where there is none. Raises DataError for one it lacks."""
    used = sorted({action[0] for about in videos.values() for action in about["actions"]})
    if not file.is_file():
        outputs.write_list(file, used)
        return used
    names = [name.strip() for name in file.read_text(encoding="utf-8").splitlines() if name.strip()]
    if unknown := sorted(set(used) - set(names)):
        raise DataError(f"{file}: does not name the label {unknown[0]!r}")
    return names


def find_features(folder: Path, video: str) -> Path | None:
    for name in (video, f"v_{video}", video.removeprefix("v_")):
        for suffix in (".pkl", ".npy"):
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    return None


def line(name: str, frames: int, about: dict[str, Any], labels: list[str], file: str) -> str:
    """``video frames count`` and each action in time steps of its features, cut to the video."""
    if about["seconds"] <= 0:
        raise DataError(f"{file}: {name}: a duration of {about['seconds']} seconds")
    scale = frames / about["seconds"]
    boxes = []
    for label, *ends in about["actions"]:
        start, end = sorted(min(max(second * scale, 0.0), frames) for second in ends)
        boxes.append(f"{labels.index(label) + 1} {start:.2f} {end:.2f}")
    return " ".join([name, str(frames), str(len(boxes)), *boxes])


if __name__ == "__main__":
    sys.exit(cli.run(main))
