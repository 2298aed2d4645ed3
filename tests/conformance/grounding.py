"""TALL: 2019 gave pairs of a window and a sentence one by one, the zoo a movie at once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.cases import Case, assert_close, read_json, sections_of
from tests.conformance.tolerances import tolerance
from utils import build


def compare_movies(case: Case, reader: Any, described: dict, arrays: Any) -> None:
    """Every recorded pair, found by movie, sentence and window; and no other."""
    limit = tolerance(case.label, "feature")
    pairs = {}
    for i in range(len(reader)):
        sample = reader[i]
        spans = [f"{int(start)}_{int(end)}" for start, end in sample["windows"]]
        for s, sentence in enumerate(sample["sentences"]):
            for w, visual in enumerate(sample["visual"]):
                name = f"{sample['video']}_{spans[w]}"
                pairs[sample["video"], sample["first"] + s, name] = (visual, sentence, *sample["windows"][w])
    for batch in described["batches"]:
        for visual, sentence, start, end, k, t, _, clips, movie in batch["samples"]:
            ours = pairs.pop((movie["v"], k["v"], clips["names"][t["v"]]))
            for value, field in zip(ours[:2], (visual, sentence), strict=True):
                expected, stride = arrays[field["key"]].reshape(-1), field.get("stride", 1)
                assert list(value.shape) == field["shape"][1:] and str(value.dtype) == field["dtype"]
                assert_close(value[::stride], expected, limit, f"{movie['v']} {k['v']} {t['v']}")
            assert list(ours[2:]) == [start["v"], end["v"]]
    assert not pairs, f"2019 had no {sorted(pairs)[:3]}"


def compare_metric(case: Case, described: dict, tmp_path: Path) -> None:
    """Recalls of every movie and of all, the result files, and the printed moments."""
    folder = case.folder / case.name
    sections, file = sections_of(case, described)
    mode = described["mode"].upper()
    metric, alone = (build.metric(case.spec, sections, mode, file) for _ in range(2))
    batches = _movies(described, np.load(folder / "inputs.npz"))
    text = "\n".join(line[2] for step in described["steps"] for line in step["log"])
    limit = tolerance(case.label, "metric")
    recalls = re.findall(
        r"^(\S*) IoU= (\S+), R@10: (\S+); IoU= \S+, R@5: (\S+); IoU= \S+, R@1: (\S+)$", text, re.M
    )
    records = []
    for outputs, batch in batches:
        if mode == "INFER":
            records += metric.decode(outputs, batch)
            continue
        metric.update(outputs, batch)
        alone.reset()
        alone.update(outputs, batch)
        _compare_recalls(alone, [r for r in recalls if r[0] == batch["video"][0]], limit)
    if mode == "INFER":
        lines = [
            line for r in records for line in metric.describe(r).splitlines() if line.startswith("movie")
        ]
        number = r"(-?[\d.]+(?:e-?\d+)?)"
        form = rf"movie_name: (\S+), sentence_id: (\d+), pred_start_time: {number}, pred_end_time: {number}, "
        form += rf"gt_start_time: {number}, gt_end_time: {number}"
        ours, expected = (re.findall(form, t) for t in ("\n".join(lines), text))
        assert expected and [r[:2] for r in ours] == [r[:2] for r in expected]
        assert_close(*(np.array([r[2:] for r in rows], float) for rows in (ours, expected)), limit, "moments")
    else:
        _compare_recalls(metric, [r for r in recalls if not r[0]], limit)
    (written,) = metric.write_results(str(tmp_path), records if mode == "INFER" else None)
    assert [written.name] == described["files"]
    ours, expected = json.loads(written.read_text(encoding="utf-8")), read_json(folder / written.name)
    assert list(ours) == list(expected) and ours["version"] == expected["version"]
    assert set(ours["results"]) == set(expected["results"])
    for name, value in expected["results"].items():
        assert_close(ours["results"][name], value, limit, name)


def compare_losses(case: Case, described: dict) -> None:
    """In training 2019 fetched the loss alone, and logged that of one batch."""
    sections, file = sections_of(case, described)
    metric = build.metric(case.spec, sections, described["mode"].upper(), file)
    arrays = np.load(case.folder / case.name / "inputs.npz")
    compared = 0
    for step in described["steps"]:
        if step["op"] == "accumulate":
            metric.reset()
            metric.update({"loss": arrays[step["fetch"][0]]}, {"video": ["a", "b"]})
        elif step["op"] == "calculate_and_log_out":
            logged = re.search(r"Loss = (\S+)", step["log"][0][2])[1]
            assert f"{metric.result()['loss']:.4f}" == logged
            compared += 1
    assert compared


def _compare_recalls(metric: Any, recorded: list, limit: float) -> None:
    assert len(recorded) == 4
    for _, iou, *values in recorded:
        for n, value in zip((10, 5, 1), values, strict=True):
            assert_close(metric.result()[f"R@{n}_IoU={iou}"], float(value), limit, f"R@{n} {iou}")


def _movies(described: dict, arrays: Any) -> list[tuple[dict, dict]]:
    """Recorded rows of (movie, sentence, window), in any order, as our outputs and batches of a movie."""
    batches = []
    for movie, names in described["sentences"].items():
        rows = np.nonzero(arrays["movie"] == movie)[0]
        windows = np.array([name.rsplit("_", 2)[1:] for name in described["clips"][movie]], float)
        scores = np.full((3, len(names), len(windows)), np.nan, np.float32)
        for row in rows:
            assert list(windows[arrays["t"][row]]) == [arrays["start"][row], arrays["end"][row]]
            scores[:, arrays["k"][row], arrays["t"][row]] = arrays["outputs"][row]
        assert not np.isnan(scores).any()
        batch = {
            "video": [movie],
            "num_sentences": np.array([len(names)]),
            "num_windows": np.array([len(windows)]),
            "windows": windows,
            "moments": np.array([name.rsplit("_", 2)[1:] for name in names], float),
            "texts": [[""] * len(names)],
            "first": np.array([0]),
            "fps": np.array([np.nan]),
            "num_frames": np.array([np.nan]),
        }
        batches.append(({"scores": scores}, batch))
    return batches
