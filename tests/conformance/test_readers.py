"""Readers against recorded samples: the same fields, in the order of the 2019 reader.

2019 dropped the last partial batch everywhere and skipped what it could not read; the zoo yields every
sample and names the failures. So its samples, without the failures, must begin with the recorded ones.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from reader.common import transforms
from tests.conformance import grounding
from tests.conformance.cases import Case, assert_close, read_json, sections_of
from tests.conformance.tolerances import tolerance
from utils import build
from utils.errors import ZooError
from utils.loader import training_order

# 2019 used the frames before the damage; how many those are depends on the decoder's threads.
ONLY_WE_REFUSE = ("corrupt_truncated_faststart.mp4",)

# Folders with fewer images than segments begin again at their end; 2020 looked for images beyond it.
ONLY_2019_REFUSED = ("frames/gen_short2_h264",)

# Where 2019 failed and we do not: the beginning of its error, and why we read these files.
FIXED = {
    "IndexError: index": "each stream is sampled by its own length",
    "KeyError: b'nframes'": "pickles of Python 3 have the same keys as text",
    "ValueError: low >= high": "a crop as large as the frame has one place",
}
# Keys of a mode that make our reader do what 2019's did, where we differ on purpose.
AS_IN_2019 = {
    ("NONLOCAL", "VALID"): {"random_clips": True},
    ("NONLOCAL", "INFER"): {"num_test_clips": None, "use_multi_crop": None},  # it took those of TEST
}


# A search for sentences: how it begins was fed in 2019, and is the search's own business here.
SEARCHED = ("feat", "init_ids", "init_scores", "video", "start_second", "end_second")
FED_IN_2019 = {"init_ids": np.int64, "init_scores": np.float32}


def test_reader(readers_case: Case, conformance_dir, monkeypatch: pytest.MonkeyPatch) -> None:
    case = readers_case
    described = read_json(case.folder / f"{case.name}.json")
    monkeypatch.chdir(conformance_dir / "io" / "data")
    sections, file = sections_of(case, described)
    mode = described["mode"].upper()
    sections[mode] = {**sections[mode], **AS_IN_2019.get((case.spec.name, mode), {})}
    sections[mode] = {name: value for name, value in sections[mode].items() if value is not None}
    if described.get("error", "").startswith(tuple(FIXED)):
        reader = build.reader(case.spec, sections, mode, file)
        assert all(reader[i]["video"] for i in range(len(reader)))
        return
    if "error" in described:  # 2019 failed; so do we, with a message for the user
        with pytest.raises(ZooError):
            reader = build.reader(case.spec, sections, mode, file)
            [reader[i] for i in range(len(reader))]
        return
    reader = build.reader(case.spec, sections, mode, file)
    if getattr(reader, "retrieves", False):
        grounding.compare_movies(case, reader, described, np.load(case.folder / described["npz"]))
        return
    if mode == "VALID" and not described["batches"]:  # 2019's TALL gave nothing to validate on
        assert all(reader[i]["video"] for i in range(len(reader)))
        return
    if described["unordered"] and hasattr(reader.config, "random_clips"):
        _compare_in_any_order(case, reader, described, np.load(case.folder / described["npz"]), mode)
        return
    if described["unordered"] and hasattr(reader.config, "anno_file"):
        _compare_as_a_set(case, reader, described, np.load(case.folder / described["npz"]), mode)
        return
    if case.label == "VIDEOTAG_TSN":  # there training crops were central: a default argument, and a bug
        monkeypatch.setattr(
            transforms, "random_crop", lambda images, size, _: transforms.centre_crop(images, size)
        )
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
    drawn = {call[0] for call in described.get("random_calls", [])} - {"random.shuffle"}  # of samples
    calls = {call.partition(".")[0] for call in drawn}
    if calls == {"random", "np"}:
        reader.shared_rng = _TwoStreams(seed)
    elif "np" in calls:  # 2019 sampled rows of features at random in every mode
        reader.shared_rng = np.random.RandomState(seed)
    elif reader.mode == "TRAIN":
        reader.shared_rng = random.Random(seed)
    shuffles = {call[0] for call in described.get("random_calls", [])} == {"random.shuffle"}
    orders = _orders(reader, seed, shuffles)
    for epoch in range(described["epochs"]):
        order = next(orders)
        rank, world = shard
        order += order[: -len(order) % world]
        for index in order[rank::world]:
            path = reader.describe(index)
            draws = copy.deepcopy(getattr(reader, "shared_rng", None))
            try:
                sample = reader[index]
            except ZooError as error:
                if "no row of the features" in str(error):  # segments that 2019 passed over without a word
                    continue
                if path not in log:
                    assert path.endswith(ONLY_WE_REFUSE), path
                    yield epoch, None
            else:
                if _has_no_action(sample, reader.mode, log):
                    continue
                if path not in log:
                    yield epoch, sample
                    continue
                assert path.endswith(ONLY_2019_REFUSED), f"2019 could not read {path}"
                reader.shared_rng = draws  # 2019 failed before it drew


def _has_no_action(sample: dict, mode: str, log: str) -> bool:
    """2019 passed over a video without a positive anchor, in test only one without any action at all."""
    if "cls_targets" not in sample or sample["cls_targets"].any():
        return False
    return mode in ("TRAIN", "VALID") or sample["video"] in log


class _TwoStreams:
    """Python's global stream and numpy's, one seed each: 2019's Non-local reader drew from both."""

    def __init__(self, seed: int) -> None:
        self.python, self.numpy = random.Random(seed), np.random.RandomState(seed)
        self.randint, self.shuffle = self.python.randint, self.python.shuffle
        self.getstate, self.setstate = self.python.getstate, self.python.setstate
        self.random = self.numpy.rand

    def randrange(self, *bounds: int) -> int:
        return int(self.numpy.randint(*bounds))


class _Start:
    """Draws the given start of a clip, or the last there is."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.getstate, self.setstate, self.random = (lambda: None), (lambda state: None), (lambda: 0.0)

    def randint(self, low: int, high: int) -> int:
        return min(low + self.start, high)


def _compare_in_any_order(case: Case, reader: Any, described: dict, arrays: Any, mode: str) -> None:
    """2019's reader processes each had a stream of their own: some start must give the recorded clip."""
    recorded = [sample for batch in described["batches"] for sample in batch["samples"]]
    by_label = {int(arrays[label["key"]].reshape(-1)[0]): (image, label) for image, label in recorded}
    for index, line in enumerate(reader.lines):
        if line.number not in by_label:
            continue
        for start in range(100):
            reader.shared_rng = _Start(start)
            sample = reader[index]
            image = by_label[line.number][0]
            expected, stride = arrays[image["key"]].reshape(-1), image.get("stride", 1)
            if np.abs(sample["image"].reshape(-1)[::stride] - expected).max() <= tolerance(
                case.spec.name, "image"
            ):
                _compare(case, sample, list(by_label.pop(line.number)), arrays, mode)
                break
    assert not by_label, f"no start gives the clips of the labels {sorted(by_label)}"


def _compare_as_a_set(case: Case, reader: Any, described: dict, arrays: Any, mode: str) -> None:
    """2019's reader processes came in any order, and each dropped its own last partial batch."""
    left = [reader[i] for i in range(len(reader))]
    for batch in described["batches"]:
        for recorded in batch["samples"]:
            first = arrays[recorded[0]["key"]].reshape(-1)
            stride = recorded[0].get("stride", 1)
            name = case.spec.inputs[0]
            same = [s for s in left if np.abs(s[name].reshape(-1)[::stride] - first).max() <= 1e-6]
            assert len(same) == 1, "a sample that is not ours, or one that came twice"
            _compare(case, same[0], recorded, arrays, mode)
            left = [sample for sample in left if sample is not same[0]]


def _orders(reader: Any, seed: int, shuffles: bool) -> Iterator[list[int]]:
    """The order of each epoch in 2019; ``shuffles``: its one draw was that of the list, again and again."""
    if reader.mode == "TRAIN" and isinstance(reader.shared_rng, _TwoStreams):
        while True:
            order = list(range(len(reader)))
            reader.shared_rng.shuffle(order)
            yield order
    if reader.mode != "TRAIN":
        while True:
            yield list(range(len(reader)))
    # VideoTag and C-TCN: from the one stream of draws
    if getattr(reader.config, "format", "") in ("video", "frames") or hasattr(reader, "anchors"):
        while True:
            order = list(range(len(reader)))
            reader.shared_rng.shuffle(order)
            yield order
    # TALL, BMN and BSN: one stream, the list stays as it was shuffled last
    if hasattr(reader, "pairs") or hasattr(reader.config, "anno_file"):
        order = list(range(len(reader)))
        while True:
            reader.shared_rng.shuffle(order)
            yield list(order)
    if shuffles and not hasattr(reader, "training_order"):
        rng = random.Random(seed)
        while True:
            order = list(range(len(reader)))  # it read the list anew each time
            rng.shuffle(order)
            yield order
    if not hasattr(reader, "training_order"):
        for epoch in itertools.count():
            yield training_order(len(reader), 0, epoch)
    rng = random.Random(seed)  # 2019 shuffled shards once, and the records of a shard each time it was read
    shards = list(range(len(reader.files.lines)))
    rng.shuffle(shards)
    while True:
        order: list[int] = []
        for shard in shards:
            records = list(reader.files.records_of(shard))
            rng.shuffle(records)
            order += records
        yield order


def _compare(case: Case, sample: dict, recorded: list[dict], arrays: Any, mode: str) -> None:
    limit = lambda check: tolerance(case.label, check)  # noqa: E731
    fields = tuple(name for name in case.spec.inputs if not name.endswith("_length"))
    if case.spec.prediction is not None and mode in ("TEST", "INFER"):
        fields = SEARCHED
        sample = {**sample, **{name: np.full((1, 1), 0, dtype) for name, dtype in FED_IN_2019.items()}}
    elif "video_index" in sample:  # one clip of a video
        fields += ("video_index",)
    else:
        sample_id = "video_id" if "video_id" in sample else "fileid"
        beside = ("props_info",) if "props_info" in sample and mode != "VALID" else ()
        fields += (case.spec.targets + beside) if mode != "INFER" else (*beside, sample_id)
        fields += ("fileid",) * (mode != "INFER" and len(recorded) > len(fields))  # the localisers, in test
    video = sample["video"]
    for name, field in zip(fields, recorded, strict=True):
        if field["t"] != "ndarray":
            expected = field["v"]
            value = sample[name]
            if field["t"] == "list":
                assert value.tolist() == [item["v"] for item in expected], f"{video}: {name}"
                continue
            value = value.item() if isinstance(value, np.ndarray) else value
            assert str(value) == str(expected), f"{video}: {name}"
            continue
        value, stride = sample[name], field.get("stride", 1)
        if field["dtype"] == "float64":  # features and labels: fed as float32, or as bytes
            assert list(value.shape) == field["shape"] and value.dtype in (np.float32, np.uint8), video
            flat = value.reshape(-1)[::stride]
            assert_close(flat, arrays[field["key"]].reshape(-1), limit("feature"), f"{video}: {name}")
            continue
        assert list(value.shape) == field["shape"] and str(value.dtype) == field["dtype"], f"{video}: {name}"
        expected = arrays[field["key"]].reshape(-1)
        error = np.abs(value.reshape(-1)[::stride].astype(np.float64) - expected)
        if "mpeg4" in video:
            assert error.mean() <= limit("image_mpeg4_mean"), f"{video}: {name}"
        assert error.max() <= limit("image_mpeg4" if "mpeg4" in video else "image"), f"{video}: {name}"
