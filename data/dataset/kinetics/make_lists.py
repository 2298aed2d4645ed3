"""A folder with one sub-folder a class -> train.list, val.list, test.list, labels.json and a recipe.

    python data/dataset/kinetics/make_lists.py --videos my_videos --out data/dataset/my_videos

    my_videos/jump/a.mp4           label 0: classes are sorted by name
    my_videos/jump/2024/b.mov      label 0: any depth
    my_videos/run/c.mp4            label 1

Each class is divided alike, at random but always in the same way for the same videos and --seed; a video
is in exactly one list. Videos that are divided already: run it once for each part, with the fraction 0 for
the others and --labels=FIRST/labels.json, so that the classes keep their numbers.

The recipe is that of --recipe with these lists, classes and a batch for one machine: OUT/tsn.yaml. Prints the
next commands.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser
from utils import cli
from utils.config import load_yaml, to_yaml
from utils.errors import ConfigError, DataError
from utils.files import write_atomic, write_json

SPLITS = ("train", "val", "test")
Lists = dict[str, list[str]]  # split -> lines
BATCH_SIZE = 16  # of the recipe: fits small sets and small GPUs
ROOT = Path(__file__).resolve().parents[3]


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--videos", required=True, help="folder with one sub-folder a class")
    flags.add_argument("--out", required=True, help="folder for the lists and labels.json")
    flags.add_argument(
        "--val", type=fraction, default=0.1, help="part of each class for val.list (default: 0.1)"
    )
    flags.add_argument("--test", type=fraction, default=0.1, help="the same for test.list (default: 0.1)")
    flags.add_argument("--seed", type=int, default=0, help="another number divides otherwise (default: 0)")
    flags.add_argument("--labels", help="labels.json to take the numbers of the classes from")
    flags.add_argument(
        "--recipe",
        default=str(ROOT / "configs" / "tsn.yaml"),
        help="recipe to adapt, of a model that reads Kinetics (default: configs/tsn.yaml)",
    )
    args = flags.parse_args(argv)
    train = round(1 - args.val - args.test, 9)
    if train < 0:
        raise ConfigError(f"--val={args.val:g} and --test={args.test:g} are more than everything")
    classes = find_classes(args.videos)
    names = read_labels(args.labels, classes) if args.labels else sorted(classes)
    shares = {"train": train, "val": args.val, "test": args.test}
    lists: Lists = {split: [] for split in SPLITS}
    for name, videos in classes.items():
        for split, part in divide(name, videos, shares, args.seed).items():
            lists[split] += [f"{video} {names.index(name)}" for video in part]
    write(args.out, names, lists)
    recipe = None
    if lists["train"]:
        recipe = write_recipe(
            args.out, args.recipe, names, {split: len(part) for split, part in lists.items()}
        )
    report(args.out, names, classes, lists, recipe)
    return 0


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def find_classes(folder: str) -> dict[str, list[Path]]:
    """The videos of each class, by its name. Raises DataError where there is none."""
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder")
    classes: dict[str, list[Path]] = {}
    loose = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            classes[entry.name] = outputs.find_videos(entry.path)
        elif entry.name.lower().endswith(outputs.VIDEO_SUFFIXES):
            loose.append(entry.name)
    for name in [name for name, videos in classes.items() if not videos]:
        warn(f"{Path(folder) / name} holds no video: it is no class")
        del classes[name]
    if loose:
        warn(f"{len(loose)} videos lie in {folder} itself, in no class, and are left out, e.g. {loose[0]}")
    if not classes:
        raise DataError(f"{folder}: no sub-folder with a video ({', '.join(outputs.VIDEO_SUFFIXES)})")
    return classes


def read_labels(file: str, classes: dict[str, list[Path]]) -> list[str]:
    """The names in a label file. Raises DataError where one of ``classes`` is not among them."""
    try:
        names = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot read the labels ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: expected a JSON list of class names")
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise DataError(f"{file}: does not name the class {unknown[0]!r}")
    return names


def divide(name: str, videos: list[Path], shares: dict[str, float], seed: int) -> dict[str, list[Path]]:
    """The videos of one class by split; a split that is asked for gets at least one while they last.

    train comes first, then val, then test.
    """
    order = videos.copy()
    random.Random(f"{seed}/{name}").shuffle(order)
    left, parts = len(order), {}
    for split in ("test", "val"):
        kept = sum(shares[other] > 0 for other in SPLITS[: SPLITS.index(split)])  # one each for those before
        wanted = max(1, round(len(order) * shares[split])) if shares[split] > 0 else 0
        count = max(0, min(wanted, left - kept))
        parts[split], left = sorted(order[left - count : left]), left - count
    if shares["train"] > 0:
        parts["train"] = sorted(order[:left])
    else:  # rounding left some over: they belong to the larger part
        largest = max(("val", "test"), key=shares.__getitem__)
        parts[largest] = sorted(parts[largest] + order[:left])
    short = [split for split in SPLITS if shares[split] > 0 and not parts.get(split)]
    if short:
        warn(f"class {name!r} has only {len(videos)} video(s): none for {' and '.join(short)}")
    return parts


def write(out: str, names: list[str], lists: Lists) -> None:
    for split, lines in lists.items():
        file = Path(out) / f"{split}.list"
        if not lines and file.exists():
            raise ConfigError(
                f"{file} is of another run and has no part in this one; move it or choose another --out"
            )
        for line in lines:
            outputs.check_line(line)
    write_json(Path(out) / "labels.json", names)
    for split, lines in lists.items():
        if lines:
            outputs.write_list(Path(out) / f"{split}.list", lines)


def write_recipe(out: str, source: str, names: list[str], counts: dict[str, int]) -> Path:
    """The recipe ``source`` for these lists, in ``out``; the learning rate follows the batch size.

    Raises ConfigError where ``source`` is no recipe of a model that learns from lists of videos.
    """
    sections = load_yaml(source)
    batch_size = min(BATCH_SIZE, counts["train"])
    train = sections.get("TRAIN", {})
    for name in ("learning_rate", "batch_size", "total_videos"):
        if name not in train:
            raise ConfigError(f"{source}: TRAIN.{name} is missing: take the recipe of TSN, TSM or STNET")
    train["learning_rate"] = float(f"{train['learning_rate'] * batch_size / train['batch_size']:.3g}")
    train["total_videos"] = counts["train"]
    sections["MODEL"].update(format="mp4", num_classes=len(names), topk=min(5, len(names)))
    files = {"TRAIN": "train", "VALID": "val", "TEST": "test" if counts["test"] else "val", "INFER": "test"}
    for mode, split in files.items():
        sections[mode]["filelist"] = str(Path(out) / f"{split}.list")
        sections[mode]["batch_size"] = 1 if mode == "INFER" else batch_size
    for mode in ("TEST", "INFER"):
        sections[mode]["kinetics_labels"] = str(Path(out) / "labels.json")
    file = Path(out) / Path(source).name
    head = f"# {Path(source).name} for the videos of {out}, written by make_lists.py. Change what you like.\n"
    text = (head + to_yaml(sections)).encode()
    if file.exists() and file.read_bytes() != text:
        warn(f"{file} exists and is kept: it may hold changes of yours. Delete it for a new one")
    else:
        write_atomic(file, text)
    return file


def report(
    out: str, names: list[str], classes: dict[str, list[Path]], lists: Lists, recipe: Path | None
) -> None:
    counts = sorted((len(videos), name) for name, videos in classes.items())
    print(f"num_classes: {len(names)} ({Path(out) / 'labels.json'})")
    print(f"videos: {sum(count for count, _ in counts)}", end="; ")
    print(", ".join(f"{split} {len(lines)}" for split, lines in lists.items()))
    print(f"smallest class: {counts[0][1]} ({counts[0][0]}); largest: {counts[-1][1]} ({counts[-1][0]})")
    files = [str(Path(out) / f"{split}.list") for split, lines in lists.items() if lines]
    labels = str(Path(out) / "labels.json")
    check = ["python", "data/dataset/kinetics/check.py", "--list", *files, "--format=mp4"]
    print(f"\nCheck every video:\n  {shlex.join([*check, f'--labels={labels}'])}")
    if recipe:
        command = ["python", "train.py", f"--config={recipe}"]
        command += [] if lists["val"] else ["--valid_interval=0"]
        print("\nTrain (add --pretrain=TSN.pdparams to start from Kinetics weights):")
        print(f"  {shlex.join(command)}")


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(cli.run(main))
