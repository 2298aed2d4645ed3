"""Predict videos: ``python predict.py --model_name=TSN --config=… --weights=… --video_path=…``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from models import ZOO
from utils import (
    build,
    checkpoint,
    cli,
    device,
    engine,
    files,
    loader,
    log,
    program,
    unfinished,
    visualize,
    weights,
)
from utils.config import RunConfig, merge_flags, resolve

logger = logging.getLogger("predict")


def main(argv: list[str], zoo=ZOO, **defaults) -> int:
    """``zoo`` and ``defaults`` of flags: for the launchers of an application."""
    parser = cli.predict_parser(zoo)
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    names = ("batch_size", "use_gpu", "filelist", "video_path", "label_file")
    spec, sections = cli.recipe(args, zoo, {"INFER": {name: getattr(args, name) for name in names}})
    merge_flags(sections, "MODEL", {"topk": args.infer_topk})
    run = resolve(RunConfig, sections, "INFER", args.config)
    on = device.set_device(args.use_gpu, run.use_gpu)
    precision = program.precision(args.amp, on, args.to_static)
    device.connect()
    log.setup(device.rank())
    log.show_config(logger, "Infer", sections)
    logger.info(f"{spec.name} on {on}, {device.world_size()} process(es)")

    reader = build.reader(spec, sections, "INFER", args.config)
    network = build.network(spec, sections, "INFER", args.config)
    config = build.network_config(spec, sections, "INFER", args.config)
    path = args.weights or weights.published(spec, config)
    logger.info(f"{checkpoint.load_weights(network, path)}")
    metric = build.metric(spec, sections, "INFER", args.config)
    draw = visualize.Pictures(args.save_dir, metric) if args.visualize else None
    world = device.world_size()
    file = Path(args.save_dir) / f"{spec.name}_infer_result.json"
    names = [reader.describe(i) for i in range(len(reader))]
    state = ((parameter.name, parameter.numpy()) for parameter in network.parameters())
    job = unfinished.job(names, state, sections, **{"--amp": args.amp, "--visualize": args.visualize})
    part = unfinished.Unfinished(file, job, args.resume)
    if args.resume:
        logger.info(f"{len(part.done)} of {len(names)} samples were predicted before")
    remaining = [i for i in range(len(names)) if i not in part.done]
    batches = loader.evaluation_batches(reader, run.batch_size, device.rank(), world, remaining)
    workers = loader.num_workers(args.num_workers, run.num_readers, world)
    called, row = build.predicting(network, spec)
    infer = program.inference(called, row, on != "cpu", args.to_static, precision)
    samples = loader.Loader(reader, batches, workers)
    with part:
        found = part.done | engine.predict(row, infer, samples, metric, args.log_interval, draw, part.add)
        records = [found[i] for i in sorted(found)]
        if hasattr(metric, "combine"):
            records = metric.combine(records)
        if device.rank() == 0:
            head = {"version": "VERSION 1.0", "model": spec.name, "config": args.config, "weights": path}
            write(args, metric, records, draw, file, head)
    # Rank 0 alone fails: a launcher kills it, perhaps before it has written, as soon as another does.
    return 1 if device.rank() == 0 and any("error" in record for record in records) else 0


def write(args, metric, records: list[dict], draw: visualize.Pictures | None, file: Path, head: dict) -> None:
    """``file``, with ``head`` before the records, and what else the model writes."""
    if draw is not None:
        draw.together(records)
    for record in records:
        logger.info("%s", metric.describe(record) if "error" not in record else record)
    files.write_json(file, {**head, "results": records})
    if hasattr(metric, "write_results"):
        for written in metric.write_results(args.given_save_dir, records):
            logger.info(f"wrote {written}")
    num_failed = sum("error" in record for record in records)
    logger.info(f"[INFER] infer finished. {len(records)} samples, {num_failed} failed; result in {file}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
