"""Metrics against recorded values: running values, final values, predictions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance import detection
from tests.conformance.cases import Case, assert_close, read_json, sections_of
from tests.conformance.tolerances import tolerance
from utils import build

# recorded name -> ours
NAMES = {
    "acc1": "top1_acc",
    "acc5": "top5_acc",
    "avg_loss": "loss",
    "avg_acc1": "top1_acc",
    "avg_acc5": "top5_acc",
}


def test_metric(metrics_case: Case, conformance_dir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = metrics_case
    folder = case.folder / case.name
    described = read_json(folder / "expected.json")
    monkeypatch.chdir(conformance_dir / "io" / "data")
    sections, file = sections_of(described)
    mode = described["mode"].upper()
    metric = build.metric(case.spec, sections, mode, file)
    alone = build.metric(case.spec, sections, mode, file)  # scores one batch at a time
    if len(case.spec.losses) > 1:  # the localisers
        detection.compare(case, described, sections, metric, tmp_path)
        return
    arrays = np.load(folder / "inputs.npz")
    predictions: list[dict] = []
    limit = tolerance(case.spec.name, "metric")
    for step in described["steps"]:
        if step["op"] == "reset":
            metric.reset()
            continue
        if step["op"] == "finalize_after_reset":  # 2019 divided by zero
            assert metric.result() == {}
            continue
        if step["op"] == "finalize_and_log_out":
            _compare_final(metric, predictions, step, limit, mode)
            continue
        outputs, batch = _fetched(case, step, arrays, mode)
        if "error" in step:  # 2019 failed here (fewer than five classes); we must not
            metric.update(outputs, batch)
            assert metric.result()["top5_acc"] == 100.0
        elif step["op"] == "accumulate" and mode == "INFER":
            predictions += metric.decode(outputs, batch)
        elif step["op"] == "accumulate":
            metric.update(outputs, batch)
        else:
            alone.reset()
            alone.update(outputs, batch)
            for name, value in step["values"].items():
                assert_close(alone.result()[NAMES[name]], value, limit, f"{case.id} {name}")
            if step.get("returned") is not None:
                assert_close(alone.result()["loss"], step["returned"], limit, f"{case.id} loss")


def _fetched(case: Case, step: dict, arrays: Any, mode: str) -> tuple[dict, dict]:
    """Recorded fetches as our outputs and batch; 2019's order is losses, outputs, targets or ids."""
    values = [arrays[f] if isinstance(f, str) else f["literal"] for f in step["fetch"]]
    spec = case.spec
    if mode == "INFER":
        outputs = dict(zip(spec.outputs, values, strict=False))
        return outputs, {"video": list(values[len(spec.outputs)])}
    names = spec.losses + spec.outputs + spec.targets
    found = dict(zip(names[-len(values) :], values, strict=True))
    batch = {name: found.pop(name) for name in spec.targets}
    return found, batch


def _compare_final(metric: Any, predictions: list[dict], step: dict, limit: float, mode: str) -> None:
    text = "\n".join(line[2] for line in step["log"])
    if mode == "INFER":
        recorded = [
            (kind, value, name, probability)
            for kind, value, name, probability in re.findall(
                r"(video_id) (\S+) ,|class: (.+?),  probability:  (\S+)", text
            )
        ]
        lines = "\n".join(metric.describe(record) for record in predictions)
        ours = re.findall(r"(video_id) (\S+) ,|class: (.+?),  probability:  (\S+)", lines)
        assert [(a, b, c) for a, b, c, _ in ours] == [(a, b, c) for a, b, c, _ in recorded]
        expected = [float(p) for *_, p in recorded if p]
        assert_close([float(p) for *_, p in ours if p], expected, limit, "probabilities")
        return
    for name, value in step["values"].items():
        assert_close(metric.result()[NAMES.get(name, name)], value, limit, name)


def test_official_map_of_recorded_results(conformance_dir) -> None:
    folder = conformance_dir / "io"
    recorded = read_json(folder / "metrics" / "anet_eval.json")
    with_map = {name: values for name, values in recorded.items() if "average_mAP" in values}
    assert with_map
    for name, values in with_map.items():
        detection.compare_map(folder, name, values)
