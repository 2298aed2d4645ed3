"""Proposal generation of BSN (Lin et al., https://arxiv.org/abs/1806.02964): from the curves of stage 1, the
probabilities that an action starts, ends and lasts at each time step, to proposals and their features.

A video is a grid of T steps; times on it are fractions of the video. Files are those of 2019:
``<proposals>/<video>.csv``, a proposal a line, and ``<features>/<video>.npy`` (P, F) float64.
"""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from metrics.activitynet.proposals import boundaries
from utils import config, files, tables, temporal
from utils.config import key
from utils.errors import DataError, OutputError
from utils.log import bar

log = logging.getLogger(__name__)

CURVES = ("start", "end", "action")
COLUMNS = ("xmin", "xmax", "xmin_score", "xmax_score", "score")
MATCH = ("match_iou", "match_ioa")
SETTINGS = "settings.json"  # beside the proposals: how they were made
FEWEST = 200  # videos that are worth starting processes for


class Config(config.Config):
    pgm_top_K: int = key(1000, gt=0)  # proposals of a video
    pgm_top_K_train: int = key(500, gt=0)  # of a video of the training subset
    pgm_threshold: float = key(0.5, ge=0)  # of the highest probability: above it every step is a boundary
    bsp_boundary_ratio: float = key(0.25, gt=0)  # around start and end, as a part of the proposal's length
    num_sample_start: int = key(8, gt=1)  # features of a proposal
    num_sample_end: int = key(8, gt=1)
    num_sample_action: int = key(16, gt=1)
    num_sample_perbin: int = key(3, gt=0)  # steps of interpolation that a feature is the mean of


@dataclass(frozen=True)
class Job:
    """One video: ``curves`` is 2019's csv of stage 1, ``actions`` (G, 2) are annotated, as fractions."""

    video: str
    curves: Path
    actions: np.ndarray
    num_proposals: int


# ---- one video -----------------------------------------------------------------------------------


def propose(start: np.ndarray, end: np.ndarray, threshold: float) -> np.ndarray:
    """Every pair of a likely start and a likely end behind it: ``(P, 5)`` float64, the columns ``COLUMNS``.

    ``start`` and ``end`` are ``(T,)``. The first step always is a start, the last an end. By falling score,
    the product of both probabilities; equal ones by start, then by end.
    """
    may_start, may_end = boundaries(start, threshold), boundaries(end, threshold)
    may_start[0] = may_end[-1] = True
    first, last = np.nonzero(np.triu(may_start[:, None] & may_end[None, :]))  # of steps: last >= first
    return _best_first(first, last, start, end)


def pad(proposals: np.ndarray, number: int, start: np.ndarray, end: np.ndarray, video: str) -> np.ndarray:
    """Exactly ``number`` rows: the first of ``proposals``, or behind them other windows of the video.

    These are drawn from a seed of the video's name, each once; where the grid has no more windows, rows are
    repeated from the first on.
    """
    if len(proposals) >= number:
        return proposals[:number]
    num_steps = len(start)
    taken = np.zeros((num_steps, num_steps), bool)
    first, last = np.rint(proposals[:, 0] * num_steps), np.rint(proposals[:, 1] * num_steps) - 1
    taken[first.astype(np.int64), last.astype(np.int64)] = True
    others = np.argwhere(np.triu(~taken))  # (Q, 2)
    rng = np.random.default_rng(list(video.encode()))
    drawn = others[rng.permutation(len(others))[: number - len(proposals)]]
    rows = np.concatenate([proposals, _best_first(drawn[:, 0], drawn[:, 1], start, end)])
    return rows[np.arange(number) % len(rows)]


def _best_first(first: np.ndarray, last: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    step = 1.0 / len(start)  # multiplied by: other roundings than a division's, and 2019's
    scores = start[first] * end[last]
    rows = np.stack([first * step, (last + 1) * step, start[first], end[last], scores], axis=1)
    return rows[np.argsort(-scores, kind="stable")]


def features(action: np.ndarray, segments: np.ndarray, settings: Config) -> np.ndarray:
    """What the curve of actions ``(T,)`` looks like in segments ``(P, 2)`` and around their ends.

    ``(P, F)`` float64: samples of the whole segment, of the region around its start, and of that around its
    end, which reach ``bsp_boundary_ratio`` of its length to both sides. The curve is interpolated between
    the middles of its steps, and 0 outside the video.
    """
    start, end = segments.T
    beyond = (end - start) * settings.bsp_boundary_ratio
    regions = (
        (start, end, settings.num_sample_action),
        (start - beyond, start + beyond, settings.num_sample_start),
        (end - beyond, end + beyond, settings.num_sample_end),
    )
    curve = np.concatenate([[0.0], action, [0.0]])
    middle = (np.arange(len(curve)) - 0.5) / len(action)
    parts = [_samples(curve, middle, *region, settings.num_sample_perbin) for region in regions]
    return np.concatenate(parts, axis=1)


def _samples(
    curve: np.ndarray, middle: np.ndarray, low: np.ndarray, high: np.ndarray, number: int, per_bin: int
) -> np.ndarray:
    """``(P, number)``: bins whose centres are evenly spaced from low to high, ``(P,)``; each is the mean of
    ``per_bin + 1`` points, the outer ones shared with its neighbours."""
    width = (high - low) / (number - 1)
    places = np.arange(number * per_bin + 1) / per_bin - 0.5  # in bins
    values = np.interp(low[:, None] + width[:, None] * places, middle, curve)  # (P, number * per_bin + 1)
    whole = values[:, :-1].reshape(len(low), number, per_bin).sum(axis=2)
    return (whole + values[:, per_bin::per_bin]) / (per_bin + 1)


def generate(
    curves: dict[str, np.ndarray], actions: np.ndarray, number: int, video: str, settings: Config
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The table of 2019's csv, and the features ``(number, F)``.

    With annotated ``actions`` ``(G, 2)`` it also has the best IoU of each proposal with one of them, and the
    largest part of the proposal that lies in one.
    """
    start, end, action = (curves[name] for name in CURVES)
    rows = pad(propose(start, end, settings.pgm_threshold), number, start, end, video)
    table = dict(zip(COLUMNS, rows.T, strict=True))
    if len(actions):
        overlaps = (temporal.iou(rows[:, :2], actions), temporal.ioa(rows[:, :2], actions))
        table |= dict(zip(MATCH, (overlap.max(axis=1) for overlap in overlaps), strict=True))
    return table, features(action, rows[:, :2], settings)


# ---- files ---------------------------------------------------------------------------------------


def generate_all(
    jobs: Sequence[Job],
    settings: Config,
    proposals: Path,
    features: Path,
    num_processes: int,
    again: bool = False,
) -> tuple[int, list[str]]:
    """The files of every job that are not there yet, each whole or absent: how many videos were made, and a
    line for each that could not be.

    ``again``: make all anew. So are those that are older than their curves, or made with other settings.
    Raises OutputError, also when a process dies.
    """
    since = _note_settings(proposals, settings)
    todo = [job for job in jobs if again or not _is_made(job, proposals, features, since)]
    work = partial(_write, settings=settings, proposals=proposals, features=features)
    failed = []
    progress = bar(len(todo), "proposals", 0)
    for failure in _in_processes(work, todo, num_processes):
        progress.update()
        if failure:
            failed.append(failure)
    progress.close()
    return len(todo) - len(failed), failed


def _in_processes(work, jobs: Sequence[Job], num_processes: int) -> Iterator[str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_processes = min(num_processes, cores)
    if num_processes < 2 or len(jobs) < FEWEST:
        yield from map(work, jobs)
        return
    # spawn: the threads of the networks that ran before do not survive a fork.
    with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(work, jobs, chunksize=32)
        except BrokenProcessPool as error:
            raise OutputError("a process of proposal generation died; what is written is whole") from error


def _write(job: Job, settings: Config, proposals: Path, features: Path) -> str:
    """Empty, or what is wrong with the job."""
    try:
        curves = tables.read_csv(job.curves, CURVES)
    except DataError as error:
        return str(error)
    table, values = generate(curves, job.actions, job.num_proposals, job.video, settings)
    buffer = io.BytesIO()
    np.save(buffer, values)
    files.write_atomic(features / f"{job.video}.npy", buffer.getvalue())
    tables.write_csv(proposals / f"{job.video}.csv", table)
    return ""


def _note_settings(folder: Path, settings: Config) -> float:
    """Write how the proposals are made, unless this stands there already; since when it does."""
    path, content = folder / SETTINGS, settings.model_dump(include=set(Config.model_fields))
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if before != content:
        files.write_json(path, content)
    return path.stat().st_mtime


def _is_made(job: Job, proposals: Path, features: Path, since: float) -> bool:
    """A whole result is there, made after its curves and settings."""
    try:
        made = [
            path.stat().st_mtime for path in (proposals / f"{job.video}.csv", features / f"{job.video}.npy")
        ]
        return min(made) >= max(since, job.curves.stat().st_mtime)
    except OSError:
        return False


def jobs(curves: Path, about: Iterable[tuple[str, str, np.ndarray]], settings: Config) -> list[Job]:
    """A job a video of ``(video, subset, actions)``, whose curves lie in the folder ``curves``.

    Videos of the training subset have other numbers of proposals.
    """
    return [
        Job(
            video,
            curves / f"{video}.csv",
            actions,
            settings.pgm_top_K_train if "train" in subset else settings.pgm_top_K,
        )
        for video, subset, actions in about
    ]
