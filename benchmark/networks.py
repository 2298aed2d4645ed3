"""Speed and memory of any networks of the zoo on a CPU: training step, and the three ways of inference.

    python -m benchmark.networks --models TSN,TSM --threads 1,2

Each case (network, path, threads) runs in a process of its own, so that its peak memory is its own, on one
batch of made-up input at the recipe's size. Times are medians with the range over several runs; ratios are
to eager of the same network and threads, or for ``train step`` to itself at the first number of threads.
CPU time, of all threads together, is what counts where other programs share the cores.
The oneDNN predictor is first compared with eager, as in eval.py; its peak memory is that of both. Tables are
printed; the JSON says everything.

A training step is forward, loss, backward and update. Where a reader's ``example`` holds no targets, the
sum of the outputs' squares stands in for the loss; the table says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import ZOO
from utils import cli, files
from utils.cli import natural
from utils.config import Sections, load_yaml, merge_overrides
from utils.errors import ConfigError
from utils.registry import ModelSpec, find

EAGER, ONEDNN, PROGRAM, TRAIN = "eager", "oneDNN predictor", "compiled Program", "train step"
PATHS = (EAGER, ONEDNN, PROGRAM, TRAIN)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.networks",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--models", default="TSN", help="names, separated by commas, or 'all'")
    add("--paths", default=",".join(PATHS), help="which of these")
    add("--threads", default="1,2", help="numbers of threads")
    add("--scale", choices=("recipe", "tiny"), default="recipe",
        help="sizes of 2019's recipe, or of the recipe that the tests train")  # fmt: skip
    add("--batch_size", type=natural, default=1, help="of inference")
    add("--train_batch_size", type=natural, default=2)
    add("--runs", type=natural, default=5, help="timed runs a case, after one that is not")
    add("--max_seconds", type=float, default=60.0, help="after this no further run is begun")
    add("--out", default="data/benchmark/networks.json")
    add("-o", dest="override", action="append", default=[], metavar="SECTION.key=value")
    add("--case", help=argparse.SUPPRESS)  # what the processes of the cases are given
    args = parser.parse_args(argv)
    if args.case:
        print(json.dumps(measure(**json.loads(args.case))))
        return 0
    names = [spec.name for spec in ZOO] if args.models == "all" else args.models.split(",")
    specs = [find(name.strip(), ZOO) for name in names]
    threads = [int(number) for number in args.threads.split(",")]
    paths = [path.strip() for path in args.paths.split(",")]
    if unknown := set(paths) - set(PATHS):
        raise ConfigError(f"--paths: {', '.join(sorted(unknown))}; known: {', '.join(PATHS)}")
    records = []
    for spec in specs:
        with tempfile.TemporaryDirectory() as folder:
            recipe = _recipe(spec, args.scale, Path(folder))
            used = [path for path in paths if path != ONEDNN or spec.cpu_path == "onednn"]
            cases = [_case(args, spec, recipe, path, number) for path in used for number in threads]
            done = [run_case(case) for case in cases]
        report(spec, done)
        records += done
    machine = {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()}
    files.write_json(args.out, {"machine": machine, "scale": args.scale, "cases": records})
    print(f"\n{_cpu()}, {os.cpu_count()} cores; all of it: {args.out}")
    return 1 if any("error" in record for record in records) else 0


def _recipe(spec: ModelSpec, scale: str, folder: Path) -> str:
    if scale == "recipe":
        return spec.config
    from tests.recipes import TINY

    return str(TINY[spec.name](folder))


def _case(args: argparse.Namespace, spec: ModelSpec, recipe: str, path: str, threads: int) -> dict[str, Any]:
    size = args.train_batch_size if path == TRAIN else args.batch_size
    case = {"model": spec.name, "path": path, "threads": threads, "batch_size": size, "recipe": recipe}
    return {**case, "override": args.override, "runs": args.runs, "max_seconds": args.max_seconds}


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """What ``measure`` finds in a process of its own; ``error`` instead where that process fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(case["threads"])}
    environment.pop("ZOO_NUM_THREADS", None)
    command = [sys.executable, "-m", "benchmark.networks", "--case", json.dumps(case)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return {**case, **json.loads(done.stdout.splitlines()[-1])}
    lines = done.stderr.strip().splitlines()
    return {**case, "error": lines[-1] if lines else f"exit status {done.returncode}"}


# ---- one case, in its process ----------------------------------------------------------------------


def measure(
    model: str,
    path: str,
    threads: int,
    batch_size: int,
    recipe: str,
    override: list[str],
    runs: int,
    max_seconds: float,
) -> dict[str, Any]:
    """Milliseconds of each run, peak memory in MB, the input's shapes, and a ``note``, if need be."""
    from utils import device  # brings Paddle, which the parent has no use for

    device.set_device(False, None)
    spec, sections = find(model, ZOO), load_yaml(recipe)
    merge_overrides(sections, override)
    prepare = _train_step if path == TRAIN else _inference
    run, batch, note = prepare(spec, sections, recipe, path, batch_size)
    milliseconds, cpu_milliseconds = timed(run, runs, max_seconds)
    return {
        "milliseconds": milliseconds,
        "median": statistics.median(milliseconds),
        "cpu_median": statistics.median(cpu_milliseconds),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "input": {name: list(batch[name].shape) for name in spec.inputs},
        "note": note,
    }


def timed(run: Callable[[], Any], runs: int, max_seconds: float) -> tuple[list[float], list[float]]:
    """Milliseconds, by the clock and of CPU, of each of ``runs`` calls after the first.

    Of as many as begin within ``max_seconds``, but of one at least.
    """
    begun = time.perf_counter()
    run()
    milliseconds: list[float] = []
    cpu_milliseconds: list[float] = []
    while not milliseconds or (len(milliseconds) < runs and time.perf_counter() - begun < max_seconds):
        started, used = time.perf_counter(), time.process_time()
        run()
        milliseconds.append(1000 * (time.perf_counter() - started))
        cpu_milliseconds.append(1000 * (time.process_time() - used))
    return milliseconds, cpu_milliseconds


def _batch(spec: ModelSpec, sections: Sections, mode: str, recipe: str, size: int) -> dict[str, Any]:
    """The reader's example, ``size`` times over; its float fields become normal noise."""
    import numpy as np

    from utils import build

    rng = np.random.default_rng(0)
    batch = {}
    for name, value in build.example_inputs(spec, sections, mode, recipe).items():
        value = np.repeat(value, size, axis=0)
        if value.dtype.kind == "f":
            value = rng.standard_normal(value.shape).astype(value.dtype)
        batch[name] = value
    return batch


def _inference(
    spec: ModelSpec, sections: Sections, recipe: str, path: str, size: int
) -> tuple[Callable[[], Any], dict, str]:
    from utils import build, program

    network = build.network(spec, sections, "INFER", recipe)
    batch = _batch(spec, sections, "INFER", recipe, size)
    note = ""
    if path == EAGER:
        infer = program.eager(network, spec, spec.evaluated)
    elif path == PROGRAM:
        infer = program.eager(program.compiled(network), spec, spec.evaluated)
    else:
        infer = program.OneDNN(network, spec)
        infer(batch)  # builds the predictor, and compares it with eager
        if not infer.agrees:
            note = "eager: the predictor gives other numbers"
    return lambda: infer(batch), batch, note


def _train_step(
    spec: ModelSpec, sections: Sections, recipe: str, path: str, size: int
) -> tuple[Callable[[], Any], dict, str]:
    import paddle

    from utils import build

    network = build.network(spec, sections, "TRAIN", recipe)
    updates = build.solver(spec, sections, recipe).build(network.parameters())
    arrays = _batch(spec, sections, "TRAIN", recipe, size)
    batch = {name: paddle.to_tensor(value) for name, value in arrays.items()}
    has_targets = all(name in batch for name in spec.targets)
    network.train()

    def step() -> None:
        outputs = network(*(batch[name] for name in spec.inputs))
        if has_targets:
            loss = network.loss(outputs, batch)["loss"]
        else:
            loss = sum(value.square().sum() for value in outputs.values() if value.is_floating_point())
        loss.backward()
        updates.step()
        updates.clear_grad()

    return step, batch, "" if has_targets else "without the loss"


# ---- tables ----------------------------------------------------------------------------------------


def report(spec: ModelSpec, records: list[dict[str, Any]]) -> None:
    """One table: a line a case."""
    shapes = {name: shape for record in records[:1] for name, shape in record.get("input", {}).items()}
    sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    print(f"\n{spec.name}: {sizes}")
    if spec.cpu_path != "onednn":
        print(f"  no oneDNN predictor: {spec.cpu_path_reason}")
    print(f"  {'':17} threads  batch       ms  (range)            ratio   CPU ms  peak MB")
    for record in records:
        line = f"  {record['path']:17} {record['threads']:7} {record['batch_size']:6}"
        if "error" in record:
            print(f"{line}  failed: {record['error']}")
            continue
        low, high = min(record["milliseconds"]), max(record["milliseconds"])
        span = f"({low:.1f}-{high:.1f})"
        record["ratio"] = ratio(record, records)
        print(
            f"{line} {record['median']:8.1f}  {span:18} {record['ratio'] or 0:5.2f}"
            f" {record['cpu_median']:8.1f}  {record['peak_megabytes']:7.0f}  {record['note']}"
        )


def ratio(record: dict[str, Any], records: list[dict[str, Any]]) -> float | None:
    """How many times as fast as its baseline; None where that was not measured."""
    for other in records:
        same = other["threads"] == record["threads"]
        if other["path"] == TRAIN if record["path"] == TRAIN else other["path"] == EAGER and same:
            return other["median"] / record["median"] if "median" in other else None
    return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(cli.run(main))
