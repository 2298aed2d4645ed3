"""Evaluate a model of the zoo: ``python eval.py --model_name=TSN --config=… --weights=…``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from models import ZOO
from utils import build, checkpoint, cli, device, engine, files, loader, log, program, weights
from utils.config import RunConfig, resolve

logger = logging.getLogger("eval")


def main(argv: list[str], zoo=ZOO, **defaults) -> int:
    """``zoo`` and ``defaults`` of flags: for the launchers of an application."""
    parser = cli.eval_parser(zoo)
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    flags = {"batch_size": args.batch_size, "use_gpu": args.use_gpu}
    spec, sections = cli.recipe(args, zoo, {"TEST": flags})
    run = resolve(RunConfig, sections, "TEST", args.config)
    on = device.set_device(args.use_gpu, run.use_gpu)
    precision = program.precision(args.amp, on, args.to_static)
    device.connect()
    log.setup(device.rank())
    log.show_config(logger, "Test", sections)
    logger.info(f"{spec.name} on {on}, {device.world_size()} process(es)")

    network = build.network(spec, sections, "TEST", args.config)
    config = build.network_config(spec, sections, "TEST", args.config)
    path = args.weights or weights.published(spec, config)
    logger.info(f"{checkpoint.load_weights(network, path)}")
    reader = build.reader(spec, sections, "TEST", args.config)
    metric = build.metric(spec, sections, "TEST", args.config)
    world = device.world_size()
    batches = loader.evaluation_batches(reader, run.batch_size, device.rank(), world)
    workers = loader.num_workers(args.num_workers, run.num_readers, world)
    called, row = build.predicting(network, spec)
    infer = program.inference(called, row, on != "cpu", args.to_static, precision)
    result, failed = engine.evaluate(
        row,
        infer,
        program.loss_function(network) if row.losses else None,
        loader.Loader(reader, batches, workers),
        metric,
        "EVAL",
        args.log_interval,
    )
    logger.info(f"[EVAL] eval finished. {log.values_text(result)}")
    num_samples, unscored = len(reader), [{"video": name, "error": reason} for name, reason in failed]
    if hasattr(metric, "per_video"):
        num_samples, unscored = metric.per_video(unscored)
    if device.rank() == 0:
        file = Path(args.save_dir) / f"{spec.name}_eval_result.json"
        report = {
            "version": "VERSION 1.0",
            "model": spec.name,
            "config": args.config,
            "weights": path,
            "num_samples": num_samples,
            "num_failed": len(unscored),
            "result": result,
            "result_with_failures_counted_wrong": metric.result_with_failures(len(unscored)),
            "failed": unscored,
        }
        files.write_json(file, report)
        if hasattr(metric, "write_results"):
            for path in metric.write_results(args.given_save_dir):
                logger.info(f"wrote {path}")
        logger.info(f"{num_samples} samples, {len(unscored)} without a score; result in {file}")
    # Rank 0 alone fails: a launcher kills it, perhaps before it has written, as soon as another does.
    return 1 if unscored and device.rank() == 0 else 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
