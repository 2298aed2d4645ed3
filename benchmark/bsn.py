"""BSN's proposal generation: 2019's way, a proposal at a time in plain loops, against the zoo's.

``python -m benchmark.bsn`` makes curves of made-up videos at full size (100 steps, 1,000 proposals), then the
files of each video in both ways, in turns, one process; and the zoo's in ``--processes``. It prints videos
a second, ranges over rounds, the ratios, and how far the files differ.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metrics.activitynet import generation
from utils import cli, tables
from utils.cli import natural

STEPS = 100


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=natural, default=20, help="that plain loops take in a round")
    parser.add_argument("--factor", type=natural, default=20, help="so many more for the zoo's way")
    parser.add_argument("--processes", type=natural, default=2)
    parser.add_argument("--rounds", type=natural, default=3)
    args = parser.parse_args(argv)
    settings = generation.Config()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = make_jobs(folder, args.videos * args.factor, settings)
        ways: dict[str, Callable[[], int]] = {
            "plain loops": lambda: with_loops(jobs[: args.videos], settings, folder),
            "one process": lambda: zoo(jobs, settings, folder, 1),
            f"{args.processes} processes": lambda: zoo(jobs, settings, folder, args.processes),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, make in ways.items():
                started = time.perf_counter()
                number = make()
                rates[way].append(number / (time.perf_counter() - started))
        report(rates, difference(jobs[: args.videos], folder))
    return 0


def make_jobs(folder: Path, number: int, settings: generation.Config) -> list[generation.Job]:
    """Curves with a few bumps, as a trained first stage writes them, and the actions below these."""
    rng = np.random.default_rng(0)
    middle = (np.arange(STEPS)[:, None] + 0.5) / STEPS  # of the steps
    about = []
    for i in range(number):
        start = np.sort(rng.uniform(0.0, 0.8, 3))
        actions = np.stack([start, start + rng.uniform(0.05, 0.2, 3)], axis=1)
        starting, ending = (np.exp(-(((middle - places) / 0.03) ** 2)).max(axis=1) for places in actions.T)
        inside = ((middle >= actions[:, 0]) & (middle < actions[:, 1])).any(axis=1)
        curves = (starting, ending, inside)
        noise = rng.uniform(0.0, 0.3, (3, STEPS))
        table = {
            name: (0.7 * curve + row).astype(np.float32)
            for name, curve, row in zip(generation.CURVES, curves, noise, strict=True)
        }
        tables.write_csv(folder / "curves" / f"v_{i}.csv", table)
        about.append((f"v_{i}", "validation", actions))
    return generation.jobs(folder / "curves", about, settings)


def zoo(jobs: list[generation.Job], settings: generation.Config, folder: Path, processes: int) -> int:
    places = (folder / "proposals", folder / "features")
    made, failed = generation.generate_all(jobs, settings, *places, processes, again=True)
    assert not failed
    return made


def with_loops(jobs: list[generation.Job], settings: generation.Config, folder: Path) -> int:
    """The same files by the definition: for every start every end, for every proposal its samples."""
    (folder / "loops").mkdir(exist_ok=True)
    for job in jobs:
        curves = tables.read_csv(job.curves, generation.CURVES)
        start, end, action = (curves[name] for name in generation.CURVES)
        rows = []
        for a in likely(start, settings.pgm_threshold, 0):
            for b in likely(end, settings.pgm_threshold, len(end) - 1):
                if b >= a:
                    step = 1.0 / len(start)
                    rows.append([a * step, (b + 1) * step, start[a], end[b], start[a] * end[b]])
        rows.sort(key=lambda row: -row[4])
        proposals = generation.pad(
            np.array(rows[: job.num_proposals]), job.num_proposals, start, end, job.video
        )
        edges = np.concatenate([[-0.5 / len(action)], (np.arange(len(action) + 1) + 0.5) / len(action)])
        curve = np.concatenate([[0.0], action, [0.0]])
        lines, features = [], []
        for low, high, *scores in proposals.tolist():
            overlaps = [overlap(low, high, *one) for one in job.actions]
            lines.append([low, high, *scores, *(max(values) for values in zip(*overlaps, strict=True))])
            beyond = (high - low) * settings.bsp_boundary_ratio
            features.append(
                samples(curve, edges, low, high, settings.num_sample_action, settings)
                + samples(curve, edges, low - beyond, low + beyond, settings.num_sample_start, settings)
                + samples(curve, edges, high - beyond, high + beyond, settings.num_sample_end, settings)
            )
        with open(folder / "loops" / f"{job.video}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([[*generation.COLUMNS, *generation.MATCH], *lines])
        np.save(folder / "loops" / f"{job.video}.npy", np.array(features))
    return len(jobs)


def likely(values: np.ndarray, threshold: float, forced: int) -> list[int]:
    padded = [0.0, *values, 0.0]
    highest = max(values)
    return [
        i
        for i in range(len(values))
        if i == forced
        or values[i] > threshold * highest
        or (padded[i + 1] > padded[i] and padded[i + 1] > padded[i + 2])
    ]


def overlap(low: float, high: float, start: float, end: float) -> tuple[float, float]:
    common = max(0.0, min(high, end) - max(low, start))
    return common / (high - low + end - start - common), common / (high - low)


def samples(
    curve: np.ndarray, edges: np.ndarray, low: float, high: float, number: int, settings: generation.Config
) -> list[float]:
    fine = settings.num_sample_perbin
    width = (high - low) / (number - 1)
    places = [low - width / 2 + width / fine * i for i in range(number * fine + 1)]
    values = np.interp(places, edges, curve)
    return [float(np.mean(values[i * fine : (i + 1) * fine + 1])) for i in range(number)]


def difference(jobs: list[generation.Job], folder: Path) -> float:
    """Of features and of every column; rows of equal score may have changed places."""
    largest = 0.0
    for job in jobs:
        ours, theirs = (
            np.loadtxt(folder / place / f"{job.video}.csv", delimiter=",", skiprows=1)
            for place in ("proposals", "loops")
        )
        features = [np.load(folder / place / f"{job.video}.npy") for place in ("features", "loops")]
        orders = [np.lexsort((rows[:, 1], rows[:, 0], -rows[:, 4])) for rows in (ours, theirs)]
        pairs = ((ours, theirs), features)
        largest = max(largest, *(float(np.abs(a[orders[0]] - b[orders[1]]).max()) for a, b in pairs))
    return largest


def report(rates: dict[str, list[float]], differs: float) -> None:
    base = statistics.median(rates["plain loops"])
    for way, values in rates.items():
        median, spread = statistics.median(values), f"{min(values):.0f}-{max(values):.0f}"
        print(f"  {way:12} {median:7.1f} videos/s ({spread})  {median / base:.1f}x plain loops")
    print(f"  files differ by {differs:.1e}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
