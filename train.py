"""Train a model of the zoo: ``python train.py --model_name=TSN --config=configs/tsn.yaml``."""

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
    optimizer,
    profile,
    program,
    ranks,
    snapshot,
)
from utils.config import RunConfig, resolve, to_yaml

logger = logging.getLogger("train")


def main(argv: list[str], zoo=ZOO, script: str = __file__, **defaults) -> int:
    """``zoo``, ``script`` and ``defaults`` of flags: for the launchers of an application."""
    parser = cli.train_parser(zoo)
    parser.set_defaults(**defaults)
    args = parser.parse_args(argv)
    both = {"batch_size": args.batch_size, "use_gpu": args.use_gpu}
    names = ("learning_rate", "epoch", "fix_random_seed", "clip_norm")
    only = {name: getattr(args, name) for name in names}
    spec, sections = cli.recipe(args, zoo, {"TRAIN": {**both, **only}, "VALID": both})
    run = resolve(RunConfig, sections, "TRAIN", args.config)
    processes = args.num_processes or device.default_processes(args.use_gpu, run.use_gpu)
    if processes > 1 and not device.under_launcher():
        on_gpu = device.wants_gpu(args.use_gpu, run.use_gpu) and device.visible_gpus() > 0
        return ranks.start(processes, on_gpu, [script, *argv], Path(args.save_dir) / "log")
    on = device.set_device(args.use_gpu, run.use_gpu)
    device.connect()
    log.setup(device.rank())
    log.show_config(logger, "Train", sections)
    logger.info(f"{spec.name} on {on}, {device.world_size()} process(es)")
    precision = program.precision(args.amp, on, args.to_static)
    with optimizer.fresh_names():
        return train(args, spec, sections, run, precision)


def train(args, spec, sections, run: RunConfig, precision) -> int:
    save_dir, file, world = Path(args.save_dir), args.config, device.world_size()
    resume = checkpoint.find_resume(args.resume, args.save_dir, spec.name) if args.resume else None
    seed = snapshot.run_seed(run, resume)
    reader = build.reader(spec, sections, "TRAIN", file, seed)
    loader.check_batch(run.batch_size, len(reader), world, args.accumulate)
    part = run.batch_size // world // args.accumulate
    parts = f" x {args.accumulate} parts" if args.accumulate > 1 else ""
    logger.info(f"batch {run.batch_size} = {world} process(es){parts} x {part} sample(s), {precision}")
    if "num_gpus" in run.model_fields_set and run.num_gpus != world and device.rank() == 0:
        logger.warning(f"{file}: TRAIN.num_gpus is {run.num_gpus}, but {world} process(es) run, which counts")
    validate = validation(args, spec, sections, precision) if args.valid_interval else None
    network = build.network(spec, sections, "TRAIN", file, seed)
    if args.sync_bn:
        device.synchronise_batch_norm(network, args.to_static)
    solver = build.solver(spec, sections, file)
    called = program.compiled(network, spec) if args.to_static else network
    updates = solver.build(network.parameters())
    if run.clip_norm:
        optimizer.clip(updates, run.clip_norm)
    called = device.data_parallel(called)
    failure_limit = max(10, int(run.max_failed_fraction * len(reader)))
    trainer = engine.Trainer(
        spec, network, called, updates, seed, run.epoch, failure_limit, precision, args.accumulate
    )
    snapshots = snapshot.Snapshots(trainer, save_dir, run.batch_size, sections)
    unscored = bool(resume) and snapshots.resume(resume, solver.counter_begin)
    if not resume:
        snapshot.start(trainer, args.pretrain, build.network_config(spec, sections, "TRAIN", file))
    workers = loader.num_workers(args.num_workers, run.num_readers, world)
    metric = build.metric(spec, sections, "TRAIN", file)
    jsonl = log.JsonLog(None)
    if device.rank() == 0:
        jsonl = log.JsonLog(save_dir / "log.jsonl", log.scalar_writer(args.log_writer, save_dir / "curves"))
        checkpoint.remove_unfinished(save_dir, spec.name)
        files.write_atomic(save_dir / f"{spec.name}_config.yaml", to_yaml(sections).encode())
    if run.epoch == 0:
        snapshots.save(epoch_finished=False)
    if args.is_profiler:
        return profile.run(args, trainer, reader, metric, run.batch_size, workers)

    def end_epoch(resumed: bool = False) -> None:
        if validate and (trainer.epoch + 1) % args.valid_interval == 0:
            if resumed:  # its files may be in another folder, or not all written
                snapshots.save(epoch_finished=True)
            result, failed = validate(network)
            logger.info(f"[TEST] Finish {log.values_text(result)}; {len(failed)} could not be read")
            jsonl.write(kind="valid", epoch=trainer.epoch, step=trainer.step, **result, failed=len(failed))
            snapshots.scored(result)
        trainer.epoch, trainer.iteration = trainer.epoch + 1, 0

    if unscored:
        end_epoch(resumed=True)
    while trainer.epoch < run.epoch:
        rate = trainer.optimizer.get_lr()
        logger.info(f"------- epoch {trainer.epoch}, learning rate {rate:g}, step {trainer.step} -------")
        reader.set_epoch(trainer.epoch)
        order = loader.epoch_order(reader, seed, trainer.epoch)
        share = (device.rank(), world, trainer.iteration)
        indices = loader.parts_of(loader.training_batches(order, run.batch_size, *share), args.accumulate)
        batches = loader.Loader(reader, indices, workers)
        with engine.stop_signals() as stopped:

            def after_step() -> None:
                due = args.save_interval and trainer.step % args.save_interval == 0
                snapshots.stop_or_save(stopped(), due)

            engine.train_epoch(trainer, batches, metric, run.batch_size, args.log_interval, jsonl, after_step)
            snapshots.save(epoch_finished=True)
            snapshots.stop_or_save(stopped(), due=False)
        end_epoch()
    return 0


def validation(args, spec, sections, precision):
    """A function that scores a network on the VALID list. Raises at once where the list is missing."""
    run = resolve(RunConfig, sections, "VALID", args.config)
    reader = build.reader(spec, sections, "VALID", args.config)
    metric = build.metric(spec, sections, "VALID", args.config)
    world = device.world_size()
    batches = loader.evaluation_batches(reader, run.batch_size, device.rank(), world)
    workers = loader.num_workers(args.num_workers, run.num_readers, world)

    def validate(network):
        infer = program.eager(network, spec, spec.evaluated, precision)
        loss = program.loss_function(network)
        samples = loader.Loader(reader, batches, workers)
        return engine.evaluate(spec, infer, loss, samples, metric, "TEST", args.log_interval)

    return validate


if __name__ == "__main__":
    sys.exit(cli.run(main))
