"""Features of videos: ``python tsn_extractor.py --model_name=TSN --config=… --weights=… --filelist=…``.

Any network of the zoo with ``forward_features`` makes them. ``<save_dir>/<video>.npy`` is (S, D) float32, S
being INFER.seg_num, or with --tscale=T a sequence rescaled to (T, D). What is there is kept, and a file is
whole or not there, so a run that was stopped goes on. ``features.list`` names the files with the labels that
the list of videos had: AttentionLSTM trains on it. ``videos.json`` says how long the videos are: BMN and BSN
predict the whole folder (``--video_path``) in seconds.
"""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import numpy as np

from models import ZOO
from reader.common import activitynet, decode
from utils import build, cli, device, features, files, loader, log, weights
from utils.config import RunConfig, resolve
from utils.errors import ConfigError, DataError
from utils.log import bar

logger = logging.getLogger("tsn_extractor")


def main(argv: list[str], zoo=ZOO, **defaults) -> int:
    """``zoo`` and ``defaults`` of flags: for the launchers of an application."""
    parser = cli.extract_parser(zoo)
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    names = ("batch_size", "use_gpu", "filelist", "video_path")
    spec, sections = cli.recipe(args, zoo, {"INFER": {name: getattr(args, name) for name in names}})
    run = resolve(RunConfig, sections, "INFER", args.config)
    on = device.set_device(args.use_gpu, run.use_gpu)
    device.connect()
    log.setup(device.rank())
    log.show_config(logger, "Infer", sections)
    reader = build.reader(spec, sections, "INFER", args.config)
    network = build.network(spec, sections, "INFER", args.config)
    if not hasattr(network, "forward_features"):
        able = ", ".join(row.name for row in zoo if hasattr(row.part("network"), "forward_features"))
        raise ConfigError(f"{spec.name} makes no features of frames; these do: {able}")
    targets = feature_files(reader, Path(args.save_dir))
    mine = range(len(targets))[device.rank() :: device.world_size()]
    todo = [i for i in mine if args.overwrite or not targets[i].exists()]
    logger.info(f"{len(mine)} videos, {len(mine) - len(todo)} of them are done")
    failed: list[int] = []
    if todo:
        config = build.network_config(spec, sections, "INFER", args.config)
        path = args.weights or weights.published(spec, config)
        logger.info(f"{features.load_backbone(network, path)}")
        extract = features.FeatureExtractor(network, spec, on != "cpu", args.to_static, args.frames_at_once)
        workers = loader.num_workers(args.num_workers, run.num_readers, device.world_size())
        batches = [todo[start : start + run.batch_size] for start in range(0, len(todo), run.batch_size)]
        failed = write_features(args, extract, loader.Loader(reader, batches, workers), targets)
    failed = [index for part in device.gather(failed) for index in part]
    if device.rank() == 0:
        write_list(Path(args.save_dir) / "features.list", reader, targets, set(failed))
        write_durations(reader, targets, set(failed))
        logger.info(f"{len(targets)} videos, {len(failed)} failed; features in {args.save_dir}")
    return 1 if failed and device.rank() == 0 else 0  # as in eval.py


def feature_files(reader, folder: Path) -> list[Path]:
    """The file of each video: its name with another ending. Raises DataError where two have the same."""
    paths = [Path(reader.describe(i)) for i in range(len(reader))]
    names = [path.name if path.is_dir() else path.stem for path in paths]
    seen: dict[str, Path] = {}
    for name, path in zip(names, paths, strict=True):
        if seen.setdefault(name, path) != path:
            raise DataError(
                f"{seen[name]} and {path} would both become {folder / name}.npy; extract them into different "
                "folders (--save_dir)"
            )
    return [folder / f"{name}.npy" for name in names]


def write_features(args, extract, samples: loader.Loader, targets: list[Path]) -> list[int]:
    """A file a video; the indices of those that could not be read."""
    failed = []
    progress = bar(len(samples), "extract", device.rank())
    for i, (batch, failures) in enumerate(samples):
        for _, reason in failures:
            logger.error("cannot read %s", reason)
        unread = {name for name, _ in failures}
        failed += [k for k in samples.batches[i] if samples.reader.describe(k) in unread]
        read = [k for k in samples.batches[i] if k not in failed]
        made = extract(batch["image"].numpy()) if read else []
        for index, feature in zip(read, made, strict=True):
            buffer = io.BytesIO()
            np.save(buffer, features.rescaled(feature, args.tscale) if args.tscale else feature)
            files.write_atomic(targets[index], buffer.getvalue())
        progress.update()
        if args.log_interval and i % args.log_interval == 0:
            logger.info(f"Processed {i + 1} of {len(samples)} batches")
    progress.close()
    return failed


def write_list(file: Path, reader, targets: list[Path], failed: set[int]) -> None:
    """``feature.npy`` and the numbers behind the video in its list, a line."""
    lines = [
        " ".join([str(target), *map(str, reader.lines[i].labels)])
        for i, target in enumerate(targets)
        if i not in failed
    ]
    files.write_atomic(file, "".join(f"{line}\n" for line in lines).encode("utf-8"))


def write_durations(reader, targets: list[Path], failed: set[int]) -> None:
    """``videos.json`` beside the features; folders of images have no duration."""
    seconds = {
        target.stem: decode.duration_second(reader.describe(i))
        for i, target in enumerate(targets)
        if i not in failed
    }
    known = {name: second for name, second in seconds.items() if second}
    activitynet.write_durations(targets[0].parent, known)


if __name__ == "__main__":
    sys.exit(cli.run(main))
