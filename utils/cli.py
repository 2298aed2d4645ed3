"""The command line: every flag once, and the frame that turns a user's mistake into one line."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from utils import build, device
from utils.config import RunConfig, Sections, check_keys, load_yaml, merge_flags, merge_overrides
from utils.errors import ConfigError, Interrupted, ZooError
from utils.log import WRITERS
from utils.precision import LEVELS
from utils.registry import ModelSpec, find

SECONDS_AFTER_PEER = 5  # less than launchers wait


def boolean(text: str) -> bool:
    """``True``/``False`` as in 2019, in any letter case, or 1/0."""
    value = {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower())
    if value is None:
        raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")
    return value


def optional(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """``kind`` of the text; an empty flag (``--weights=``, ``--video_path=''``) means not given."""

    def convert(text: str) -> Any:
        return kind(text) if text.strip() else None

    convert.__name__ = kind.__name__
    return convert


def natural(text: str) -> int:
    """A whole number >= 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text}")
    return value


def positive(text: str) -> int:
    """A whole number > 0."""
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text}")
    return value


def _base(description: str, zoo: Iterable[ModelSpec], save_dir: str) -> argparse.ArgumentParser:
    models = "\n".join(f"  {spec.name:18} {spec.title}" for spec in zoo)
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"models (any letter case):\n{models}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model_name", type=optional(str), help="a model below; default: the recipe's MODEL.name")
    add("--config", type=optional(str), help="recipe (YAML); default: the model's own under configs/")
    add("--batch_size", type=optional(int), help="over all processes; default: the recipe's")
    add("--use_gpu", type=optional(boolean), help="True or False; default: a GPU if there is one")
    add("--save_dir", type=optional(str), help=f"folder for results; default: {save_dir}")
    add("-o", dest="override", action="append", nargs="+", default=[], metavar="SECTION.key=value",
        help="set any key of the recipe, e.g. -o TRAIN.epoch=1 MODEL.num_classes=6")  # fmt: skip
    add("--to_static", type=optional(boolean), default=False, help="run the network as a compiled Program")
    parser.set_defaults(default_save_dir=save_dir)
    return parser


def train_parser(zoo: Iterable[ModelSpec]) -> argparse.ArgumentParser:
    parser = _base("Train a model.", zoo, "data/checkpoints")
    add = parser.add_argument
    add("--learning_rate", type=optional(float), help="overrides TRAIN.learning_rate")
    add("--pretrain", type=optional(str), help="weights to start from: file, prefix, 2019 folder, or 'none'")
    add("--resume", type=optional(str), help="checkpoint to go on from: prefix, file, or 'auto'")
    add("--epoch", type=optional(natural), help="overrides TRAIN.epoch; 0 trains nothing and saves")
    add("--valid_interval", type=natural, default=1, help="validate every N epochs; 0 = never (default: 1)")
    add("--save_interval", type=natural, default=0,
        help="also save every N iterations; 0 = at the end of each epoch only (default: 0)")  # fmt: skip
    add("--log_interval", type=natural, default=10, help="log every N iterations; 0 = never (default: 10)")
    add("--fix_random_seed", type=optional(boolean), help="same numbers in every run (default: False)")
    add("--accumulate", type=positive, default=1,
        help="compute a batch in so many parts, one behind the other (default: 1)")  # fmt: skip
    add("--sync_bn", type=optional(boolean), default=False, help="batch norm over the batch of all processes")
    add("--clip_norm", type=optional(float), help="scale all gradients together down to this norm")
    add("--num_processes", type=optional(int), help="processes on this machine; default: one a visible GPU")
    add("--no_memory_optimize", action="store_true", help="of 2019; has no effect")
    add(
        "--log_writer",
        type=optional(str),
        choices=list(WRITERS),
        help="also write curves into <save_dir>/curves",
    )
    add("--is_profiler", "--profile", type=int, nargs="?", const=1, default=0,
        help="1: profile a few iterations and stop (default: 0)")  # fmt: skip
    add("--profiler_path", default="./", help="folder for the profile (default: ./)")
    _amp_flag(parser)
    _loader_flags(parser)
    return parser


def eval_parser(zoo: Iterable[ModelSpec]) -> argparse.ArgumentParser:
    parser = _base("Evaluate a model on the recipe's TEST list.", zoo, "data/evaluate_results")
    add = parser.add_argument
    add(
        "--weights",
        type=optional(str),
        help="weights: file, prefix or 2019 folder; default: the published ones",
    )
    add("--log_interval", type=natural, default=1, help="log every N batches; 0 = never (default: 1)")
    _amp_flag(parser)
    _loader_flags(parser)
    return parser


def predict_parser(zoo: Iterable[ModelSpec]) -> argparse.ArgumentParser:
    parser = _base("Predict the recipe's INFER list, or videos given directly.", zoo, "data/predict_results")
    add = parser.add_argument
    add(
        "--weights",
        type=optional(str),
        help="weights: file, prefix or 2019 folder; default: the published ones",
    )
    add("--filelist", type=optional(str), help="list of inputs; overrides INFER.filelist")
    add("--video_path", type=optional(str), help="a video, a folder of videos or a glob; overrides the list")
    add("--infer_topk", type=optional(int), help="classes a video; default: MODEL.topk")
    add("--label_file", type=optional(str), help="names of the classes: .json, .csv, or a name a line")
    add("--visualize", action="store_true", help="also draw each prediction: <save_dir>/pictures/*.png")
    add("--resume", action="store_true", help="go on with what an interrupted run has predicted")
    add("--log_interval", type=natural, default=1, help="log every N batches; 0 = never (default: 1)")
    _amp_flag(parser)
    _loader_flags(parser)
    return parser


def inference_parser(zoo: Iterable[ModelSpec]) -> argparse.ArgumentParser:
    parser = _base("Write the inference Program of a model.", zoo, "./")
    parser.add_argument("--weights", type=optional(str), help="weights: file, prefix or 2019 folder")
    return parser


def extract_parser(zoo: Iterable[ModelSpec]) -> argparse.ArgumentParser:
    parser = _base("Write the features of videos, a .npy each.", zoo, "data/tsn_features")
    add = parser.add_argument
    add(
        "--weights",
        type=optional(str),
        help="weights: file, prefix or 2019 folder; the classifier is not used",
    )
    add("--filelist", type=optional(str), help="list of videos; overrides INFER.filelist")
    add("--video_path", type=optional(str), help="a video, a folder of videos or a glob; overrides the list")
    add("--tscale", type=optional(natural), help="snippets a video: the sequence is rescaled to so many")
    add("--frames_at_once", type=natural, default=20, help="frames the network takes at a time (default: 20)")
    add("--overwrite", action="store_true", help="also make anew what is there")
    add("--infer_topk", type=optional(int), help="of 2020; has no effect")
    add("--log_interval", type=natural, default=1, help="log every N batches; 0 = never (default: 1)")
    _loader_flags(parser)
    return parser


def _amp_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--amp",
        type=optional(str.upper),
        choices=LEVELS,
        help="mixed precision, bfloat16 or float16: O1 products and convolutions, O2 nearly everything",
    )


def _loader_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--num_workers",
        type=optional(natural),
        help="reader processes; 0 = none; default: num_reader_threads of the recipe, at most one a core",
    )


def recipe(
    args: argparse.Namespace, zoo: tuple[ModelSpec, ...], flags: dict[str, dict[str, Any]]
) -> tuple[ModelSpec, Sections]:
    """The model's row and its checked sections: YAML, then ``flags`` by section, then ``-o``.

    Sets ``args.config``, ``args.model_name`` and ``args.save_dir`` to what was found;
    ``args.given_save_dir`` is None without the flag.

    Raises ConfigError for an unknown model, an unreadable file, an unknown or ill-typed key.
    """
    if not args.model_name and not args.config:
        names = ", ".join(spec.name for spec in zoo)
        raise ConfigError(f"--model_name is missing. Known models: {names}.")
    spec = find(args.model_name, zoo) if args.model_name else None
    file = args.config or os.path.join(os.path.dirname(os.path.dirname(__file__)), spec.config)
    sections = load_yaml(file)
    named = str(sections.get("MODEL", {}).get("name", ""))
    if spec is None:
        if not named:
            raise ConfigError(f"{file}: --model_name is not given and the file has no MODEL.name")
        spec = find(named, zoo)
    elif named and named.lower() != spec.name.lower():
        raise ConfigError(f"{file}: this recipe is for {named}, but --model_name is {spec.name}")
    for section, values in flags.items():
        merge_flags(sections, section, values)
    merge_overrides(sections, [item for group in args.override for item in group])
    check_keys(sections, [RunConfig, *spec.configs()], file)
    spec = build.row(spec, sections, next(iter(flags), "TRAIN"), file)
    args.config, args.model_name = file, spec.name
    args.given_save_dir = args.save_dir
    args.save_dir = args.save_dir or args.default_save_dir
    return spec, sections


def run(main: Callable[[list[str]], int]) -> int:
    """Exit status of ``main``; a ZooError is one line on stderr and status 2, Ctrl-C is 130.

    A rank whose peer is gone says so and fails late: launchers name the one that fails first.
    """
    try:
        return main(sys.argv[1:])
    except Interrupted as stop:
        print(f"interrupted: {stop}", file=sys.stderr)
        return stop.exit_code
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RuntimeError, ValueError) as error:
        if not device.lost_peer(error):
            raise
        reason = str(error).strip().splitlines()[0]
        print(f"error: another process is gone, rank {device.rank()} cannot go on: {reason}", file=sys.stderr)
        time.sleep(SECONDS_AFTER_PEER)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
