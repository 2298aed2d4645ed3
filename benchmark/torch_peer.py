"""TSN-ResNet-50 here and in PyTorch, on a CPU: one image size, the same weights, in turn.

    python -m benchmark.torch_peer --torch_python=/path/to/an/environment/bin/python

PyTorch needs an environment of its own (``pip install torch numpy``, the CPU build). Both compute the logits
of one batch first: they must agree to 1e-4 of their scale, or it stops. Each case runs in a process of its
own, here and there alternating; a row is the median of all runs of all rounds. Ratios are PyTorch's time to
ours: above 1, ours is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from benchmark import networks
from models import ZOO
from utils import build, checkpoint, cli, device, files
from utils.config import load_yaml
from utils.errors import ConfigError, ZooError
from utils.registry import find

PEER = Path(__file__).with_name("torch_resnet.py")
TOLERANCE = 1e-4  # of the scale of the logits
# path of ours -> path of the peer
PAIRS = {networks.EAGER: "inference", networks.ONEDNN: "inference", networks.TRAIN: "train"}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmark.torch_peer",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--torch_python", required=True, help="interpreter of an environment that has PyTorch")
    add("--config", default="configs/tsn.yaml", help="recipe of a TSN with 50 layers")
    add("--threads", default="1,2", help="numbers of threads")
    add("--batch_size", type=cli.positive, default=1, help="of inference")
    add("--train_batch_size", type=cli.positive, default=2)
    add("--runs", type=cli.positive, default=5, help="timed runs a case and round, after one that is not")
    add("--rounds", type=cli.positive, default=3)
    add("--out", default="data/benchmark/torch_peer.json")
    args = parser.parse_args(argv)
    check_torch(args.torch_python)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"inference": args.batch_size, "train": args.train_batch_size}
        for peer, size in sizes.items():
            (Path(folder) / peer).mkdir()
            expected = write_case(args.config, size, peer, Path(folder) / peer)
            if peer == "inference":
                compare(run_peer(args.torch_python, Path(folder) / peer, peer, 1, 1)["result"], expected)
        for threads in (int(number) for number in args.threads.split(",")):
            for peer, size in sizes.items():
                records += in_turn(args, Path(folder) / peer, peer, size, threads)
    report(records)
    files.write_json(args.out, {"cases": records})
    return 0


def check_torch(python: str) -> None:
    try:
        done = subprocess.run([python, "-c", "import torch, numpy"], capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(f"--torch_python={python}: {error.strerror}") from error
    if done.returncode:
        raise ConfigError(
            f"--torch_python={python}: {done.stderr.strip().splitlines()[-1]}; "
            f"{python} -m pip install torch numpy"
        )


def write_case(config: str, size: int, peer: str, folder: Path) -> np.ndarray:
    """Weights and a batch of noise for the peer; our logits ``(N, K)`` of it."""
    device.set_device(False, None)
    spec, sections = find("TSN", ZOO), load_yaml(config)
    mode = "TRAIN" if peer == "train" else "INFER"
    if build.network_config(spec, sections, mode, config).num_layers != 50:
        raise ConfigError(f"{config}: the peer is a ResNet of 50 layers; set MODEL.num_layers to 50")
    network = build.network(spec, sections, mode, config)
    shape = build.example_inputs(spec, sections, mode, config)["image"].shape[1:]
    image = np.random.default_rng(0).standard_normal((size, *shape)).astype(np.float32)
    np.savez(folder / "weights.npz", **checkpoint.network_state(network))
    np.save(folder / "image.npy", image)
    network.eval()
    with paddle.no_grad():
        return network(paddle.to_tensor(image))["logits"].numpy()


def compare(theirs: list[list[float]], ours: np.ndarray) -> None:
    difference = float(np.abs(np.asarray(theirs) - ours).max() / np.abs(ours).max())
    print(f"logits differ by {difference:.1e} of their scale at most")
    if not difference <= TOLERANCE:
        raise ZooError("the two are not the same network")


def run_peer(python: str, folder: Path, peer: str, runs: int, threads: int) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [python, str(PEER), str(folder), peer, str(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ZooError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turn(
    args: argparse.Namespace, folder: Path, peer: str, size: int, threads: int
) -> list[dict[str, Any]]:
    """A record for the peer, and one for each path of ours that it is compared with."""
    paths = [path for path, of_peer in PAIRS.items() if of_peer == peer]
    milliseconds: dict[str, list[float]] = {name: [] for name in ("PyTorch", *paths)}
    peak = dict.fromkeys(milliseconds, 0.0)
    for _ in range(args.rounds):
        for name in milliseconds:
            if name == "PyTorch":
                done = run_peer(args.torch_python, folder, peer, args.runs, threads)
            else:
                case = {"model": "TSN", "path": name, "threads": threads, "batch_size": size}
                more = {"recipe": args.config, "override": [], "runs": args.runs, "max_seconds": 600.0}
                done = networks.run_case({**case, **more})
                if "error" in done:
                    raise ZooError(f"{name}: {done['error']}")
            milliseconds[name] += done["milliseconds"]
            peak[name] = max(peak[name], done["peak_megabytes"])
    medians = {name: statistics.median(values) for name, values in milliseconds.items()}
    return [
        {
            "case": peer,
            "threads": threads,
            "batch_size": size,
            "name": name,
            "median": medians[name],
            "range": [min(values), max(values)],
            "ratio": medians["PyTorch"] / medians[name],
            "peak_megabytes": peak[name],
        }
        for name, values in milliseconds.items()
    ]


def report(records: list[dict[str, Any]]) -> None:
    print(f"\n{'':10} {'':17} threads  batch       ms  (range)            PyTorch / it  peak MB")
    for record in records:
        low, high = record["range"]
        span = f"({low:.1f}-{high:.1f})"
        print(
            f"{record['case']:10} {record['name']:17} {record['threads']:7} {record['batch_size']:6}"
            f" {record['median']:8.1f}  {span:18} {record['ratio']:11.2f} {record['peak_megabytes']:8.0f}"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
