"""Readers against recorded samples: the same fields, in the order of the 2019 reader.

2019 dropped the last partial batch everywhere and skipped what it could not read; the zoo yields every
sample and names the failures. So its samples, without the failures, must begin with the recorded ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.conformance.cases import Case, read_json, sections_of
from tests.conformance.tolerances import tolerance
from utils import build
from utils.errors import ZooError
from utils.loader import training_order

# 2019 used the frames before the damage; how many those are depends on the decoder's threads.
ONLY_WE_REFUSE = ("corrupt_truncated_faststart.mp4",)


def test_reader(readers_case: Case, conformance_dir, monkeypatch: pytest.MonkeyPatch) -> None:
    case = readers_case
    described = read_json(case.folder / f"{case.name}.json")
    monkeypatch.chdir(conformance_dir / "io" / "data")
    sections, file = sections_of(described)
    mode = described["mode"].upper()
    if "error" in described:  # 2019 failed; so do we, with a message for the user
        with pytest.raises(ZooError):
            reader = build.reader(case.spec, sections, mode, file)
            [reader[i] for i in range(len(reader))]
        return
    reader = build.reader(case.spec, sections, mode, file)
    shard = (sections[mode].get("trainer_id", 0), sections[mode].get("num_trainers", 1))
    samples = _samples(reader, described, shard, sections[mode])
    arrays = np.load(case.folder / described["npz"]) if "npz" in described else {}
    size = sections[mode]["batch_size"]
    for batch in described["batches"]:
        assert batch["size"] == size
        for recorded in batch["samples"]:
            epoch, sample = next(samples)
            while epoch < batch["epoch"]:  # 2019 dropped the end of an epoch
                epoch, sample = next(samples)
            if sample is not None:
                _compare(case, sample, recorded, arrays, mode)
    left = sum(1 for _ in samples)
    if "stopped_after" not in described:
        assert left < size * described["epochs"], "samples beyond what 2019 dropped as partial batches"


def _samples(
    reader: Any, described: dict, shard: tuple[int, int], keys: dict
) -> Iterator[tuple[int, dict | None]]:
    """Epoch and sample, in 2019's order: its list order, its random stream, its padded shards.

    What 2019 could not read, we cannot either; None for what only we refuse.
    """
    log = " ".join(line[2] for line in described["log"])
    seed = 0 if keys.get("fix_random_seed") else described["seed"]
    if reader.mode == "TRAIN":
        reader.shared_rng = random.Random(seed)
    for epoch in range(described["epochs"]):
        order = list(range(len(reader)))
        if reader.mode == "TRAIN" and _shuffles_first(described):
            reader.shared_rng.shuffle(order)
        elif reader.mode == "TRAIN":
            order = training_order(len(reader), 0, epoch)
        rank, world = shard
        order += order[: -len(order) % world]
        for index in order[rank::world]:
            path = reader.describe(index)
            try:
                sample = reader[index]
                if not _has_no_action(sample, reader.mode, log):
                    yield epoch, sample
            except ZooError:
                if path not in log:
                    assert path.endswith(ONLY_WE_REFUSE), path
                    yield epoch, None
            else:
                assert path not in log or _has_no_action(sample, "TEST", log), f"2019 could not read {path}"


def _shuffles_first(described: dict) -> bool:
    """Whether 2019 shuffled the list with the stream that its samples draw from, too."""
    return any(call[0] == "random.shuffle" for call in described.get("random_calls", [])[:1])


def _has_no_action(sample: dict, mode: str, log: str) -> bool:
    """2019 passed over a video without a positive anchor, in test only one without any action at all."""
    if "cls_targets" not in sample or sample["cls_targets"].any():
        return False
    return mode in ("TRAIN", "VALID") or sample["video"] in log


def _compare(case: Case, sample: dict, recorded: list[dict], arrays: Any, mode: str) -> None:
    limit = lambda check: tolerance(case.spec.name, check)  # noqa: E731
    fields = case.spec.inputs + (case.spec.targets if mode != "INFER" else ("video_id",))
    fields += ("fileid",) * (mode != "INFER" and len(recorded) > len(fields))  # the localisers, in test
    video = sample["video"]
    for name, field in zip(fields, recorded, strict=True):
        if field["t"] != "ndarray":
            expected = field["v"]
            value = sample[name]
            value = value.item() if isinstance(value, np.ndarray) else value
            assert str(value) == str(expected), f"{video}: {name}"
            continue
        value, stride = sample[name], field.get("stride", 1)
        assert list(value.shape) == field["shape"] and str(value.dtype) == field["dtype"], f"{video}: {name}"
        expected = arrays[field["key"]].reshape(-1)
        error = np.abs(value.reshape(-1)[::stride].astype(np.float64) - expected)
        if "mpeg4" in video:
            assert error.mean() <= limit("image_mpeg4_mean"), f"{video}: {name}"
        assert error.max() <= limit("image_mpeg4" if "mpeg4" in video else "image"), f"{video}: {name}"
