"""Metrics against recorded values: running values, final values, predictions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conformance import detection, grounding, proposals
from tests.conformance.captions import compare_metric
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
    "hit_at_1_devstatic": "hit_at_one",
    "avg_hit_at_one_devstatic": "hit_at_one",
    "avg_perr": "perr",
    "mAP_mean_of_aps": "map",
}
PREDICTED = r"(video_id|video) (\S+?) ?,|class: (.+?),  probability:?  (\S+)"
WRONG_IN_2019 = ("hit_at_1", "avg_hit_at_one")  # every video's labels at every video's best class


def test_metric(metrics_case: Case, conformance_dir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = metrics_case
    folder = case.folder / case.name
    described = read_json(folder / "expected.json")
    monkeypatch.chdir(conformance_dir / "io" / "data")
    sections, file = sections_of(case, described)
    mode = described["mode"].upper()
    if case.spec.prediction is not None:
        compare_metric(case, described, sections, file, tmp_path)
        return
    if described.get("app") == "video_tag":
        _predictions_of_application(case, described, sections, file, tmp_path)
        return
    if any(step["op"] == "accumulate_all" for step in described["steps"]):
        grounding.compare_metric(case, described, tmp_path)
        return
    if case.label == "TALL" and mode in ("TRAIN", "VALID"):
        grounding.compare_losses(case, described)
        return
    metric = build.metric(case.spec, sections, mode, file)
    if case.label in ("BMN", "BsnTem", "BsnPem"):
        proposals.compare(case, described, sections, metric, tmp_path)
        return
    if len(case.spec.losses) > 1:  # C-TCN
        detection.compare(case, described, sections, metric, tmp_path)
        return
    alone = build.metric(case.spec, sections, mode, file)  # scores one batch at a time
    bounds = [build.metric(case.spec, sections, mode, file) for _ in range(4)]  # see _resolve_ties
    arrays = np.load(folder / "inputs.npz")
    predictions: list[dict] = []
    limit = tolerance(case.label, "metric")
    for step in described["steps"]:
        if step["op"] == "reset":
            metric.reset()
            bounds[0].reset(), bounds[1].reset()
            continue
        if step["op"] == "finalize_after_reset":  # 2019 divided by zero
            assert metric.result() == {}
            continue
        if step["op"] == "finalize_and_log_out" and hasattr(metric, "per_video") and mode == "TEST":
            _compare_videos(metric, step, limit)
            continue
        if step["op"] == "finalize_and_log_out":
            if hasattr(metric, "combine"):
                predictions = metric.combine(predictions)
            _compare_final(metric, bounds[:2], predictions, step, limit, mode, case.id)
            continue
        if "fetch" not in step:  # 2019 only logged how far it was
            continue
        outputs, batch = _fetched(case, step, arrays, mode)
        worst, best = _resolve_ties(outputs, batch)
        if "error" in step:  # 2019 failed here (fewer than five classes); we must not
            metric.update(outputs, batch)
            assert metric.result()["top5_acc"] == 100.0
        elif step["op"] == "accumulate" and mode == "INFER":
            predictions += metric.decode(outputs, batch)
        elif step["op"] == "accumulate":
            metric.update(outputs, batch)
            bounds[0].update(worst, batch)
            bounds[1].update(best, batch)
        else:
            for one, values in zip((alone, *bounds[2:]), (outputs, worst, best), strict=True):
                one.reset()
                one.update(values, batch)
            _compare_values(alone, bounds[2:], step["values"], limit, case.id, of_batch=True)
            if step.get("returned") is not None:
                assert_close(alone.result()["loss"], step["returned"], limit, f"{case.id} loss")


def _predictions_of_application(case: Case, described: dict, sections: dict, file: str, folder: Path) -> None:
    """What VideoTag printed and wrote, a file a video; its key ``'class_id`` had a stray quote."""
    recorded = [read_json(case.folder / case.name / name) for name in described["files"]]
    recorded = [
        [video, *({k.strip("'"): v for k, v in entry.items()} for entry in entries)]
        for video, *entries in recorded
    ]
    names = [str(k) for k in range(sections["MODEL"]["num_classes"])]
    if case.spec.name == "TSN":  # 2020 looked up 3,396 names, whatever the classes
        sections["MODEL"]["num_classes"] = 3396
        names = [str(k) for k in range(3396)]
    for _, *entries in recorded:
        for entry in entries:
            names[entry["class_id"]] = entry["class_name"]
    labels = folder / "labels.txt"
    labels.write_text("\n".join(names), encoding="utf-8")
    sections["INFER"]["label_file"] = str(labels)
    metric = build.metric(case.spec, sections, "INFER", file)
    arrays = np.load(case.folder / case.name / "inputs.npz")
    records = []
    for i, videos in enumerate(described["video_ids"]):
        records += metric.decode({"probability": arrays[f"b{i}_f0"]}, {"video": videos})
    written = metric.write_results(str(folder), records)
    assert [path.name for path in written] == described["files"]
    limit = tolerance(case.label, "metric")
    for path, (video, *entries) in zip(written, recorded, strict=True):
        ours, *tags = json.loads(path.read_text(encoding="utf-8"))
        assert ours == video
        assert [(t["class_id"], t["class_name"]) for t in tags] == [
            (e["class_id"], e["class_name"]) for e in entries
        ]
        assert_close([t["probability"] for t in tags], [e["probability"] for e in entries], limit, video)
    printed = [line for record in records for line in metric.describe(record).splitlines()]
    expected = [line.strip() for line in described["stdout"].splitlines() if line.strip()]
    cut = lambda line: line.partition("probability")[0]  # noqa: E731
    assert [cut(line) for line in printed] == [cut(line) for line in expected]


def _fetched(case: Case, step: dict, arrays: Any, mode: str) -> tuple[dict, dict]:
    """Recorded fetches as our outputs and batch; 2019's order is losses, outputs, targets or ids."""
    values = [arrays[f] if isinstance(f, str) else f["literal"] for f in step["fetch"]]
    spec = case.spec
    if hasattr(spec.part("metric"), "per_video") and mode in ("TEST", "INFER"):  # one clip of a video
        outputs = dict(zip(spec.outputs, values, strict=False))
        videos = np.asarray(values[-1]).reshape(-1)
        clips = np.arange(len(videos)) + 1000 * step["batch"]  # in the order of the list
        return outputs, {"video": [str(v) for v in videos], "video_index": videos, "clip": clips}
    if mode == "INFER":
        outputs = dict(zip(spec.outputs, values, strict=False))
        return outputs, {"video": list(values[len(spec.outputs)])}
    names = spec.losses + spec.outputs + spec.targets
    found = dict(zip(names[-len(values) :], values, strict=True))
    batch = {name: found.pop(name) for name in spec.targets}
    return found, batch


def _resolve_ties(outputs: dict, batch: dict) -> tuple[dict, dict]:
    """The outputs with ties of multi-label predictions broken against the labels, and for them.

    2019 left them to numpy 1.19's argpartition and a shuffle; what it got lies between the two.
    """
    probability, label = outputs["probability"], np.asarray(batch.get("label", 0))
    if probability.shape != label.shape:
        return outputs, outputs
    above = np.nextafter(np.asarray(probability, np.float32), np.float32(np.inf))
    return (
        {**outputs, "probability": np.where(label > 0, probability, above)},
        {**outputs, "probability": np.where(label > 0, above, probability)},
    )


def _compare_final(
    metric: Any, bounds: list, predictions: list, step: dict, limit: float, mode: str, what: str
) -> None:
    text = "\n".join(line[2] for line in step["log"])
    if mode == "INFER" and "infer_results" in step.get("values", {}):
        recorded = step["values"]["infer_results"]
        ours = [
            [r["video"], [e["class_id"] for e in r["topk"]], [e["probability"] for e in r["topk"]]]
            for r in predictions
        ]
        assert [record[:2] for record in ours] == [record[:2] for record in recorded]
        assert_close([r[2] for r in ours], [r[2] for r in recorded], limit, "probabilities")
        return
    if mode == "INFER":
        recorded = [
            (kind, value, name, probability) for kind, value, name, probability in re.findall(PREDICTED, text)
        ]
        lines = "\n".join(metric.describe(record) for record in predictions)
        ours = re.findall(PREDICTED, lines)
        assert [(a, b, c) for a, b, c, _ in ours] == [(a, b, c) for a, b, c, _ in recorded]
        expected = [float(p) for *_, p in recorded if p]
        assert_close([float(p) for *_, p in ours if p], expected, limit, "probabilities")
        return
    _compare_values(metric, bounds, step["values"], limit, what)


def _compare_videos(metric: Any, step: dict, limit: float) -> None:
    """Scores summed over clips: 2019 printed them, accuracies of videos over all that there should be."""
    text = "\n".join(line[2] for line in step["log"])
    right, total = map(int, re.search(r"Clip accuracy: .* \((\d+)/(\d+)\)", text).groups())
    first, videos = map(int, re.search(r"Clip1 accuracy: .* \((\d+)/(\d+)\)", text).groups())
    missing = [int(number) for number in re.findall(r"Id: (\d+) count: 0", text)]
    assert_close(metric.result()["clip_acc"], 100 * right / total, limit, "accuracy of clips")
    assert_close(metric.result()["clip1_acc"], 100 * first / videos, limit, "accuracy of first clips")
    _, unscored = metric.per_video([])
    assert [record["video"] for record in unscored] == [metric.videos[number][0] for number in missing]
    for name in ("top-1", "top-5"):
        expected = float(re.search(rf"{name} accuracy: (\S+) percent", text)[1])
        ours = metric.result_with_failures(len(missing))[f"{name.replace('-', '')}_acc"]
        assert abs(ours - expected) <= 0.005 + limit, name  # printed with two decimals


def _compare_values(
    metric: Any, bounds: list, values: dict, limit: float, what: str, of_batch: bool = False
) -> None:
    tied = "_ties" in what  # labels tie with labels: no bounds of a class
    worst, ours, best = (_values(one, of_batch) for one in (bounds[0], metric, bounds[1]))
    for name, value in values.items():
        if name in WRONG_IN_2019 or (tied and name in ("aps", "mAP_mean_of_aps")):
            continue
        name = NAMES.get(name, name)
        low, value, high = np.asarray(worst[name]), np.asarray(value), np.asarray(best[name])
        slack = limit * max(float(np.abs(value).max()), 1e-30)
        assert (low - slack <= value).all() and (value <= high + slack).all(), f"{what} {name}"
        assert (low - slack <= ours[name]).all() and (ours[name] <= high + slack).all(), f"{what} {name}"


def _values(metric: Any, of_batch: bool) -> dict:
    if not hasattr(metric, "class_average_precisions"):
        return metric.result()
    if of_batch:
        return metric.running()
    return {**metric.result(), "aps": metric.class_average_precisions()}


def test_official_scores(recorded_scores: str, conformance_dir) -> None:
    folder = conformance_dir / "io"
    recorded = read_json(folder / "metrics" / "anet_eval.json")[recorded_scores]
    compare = detection.compare_map if "average_mAP" in recorded else proposals.compare_recall
    compare(folder, recorded_scores, recorded)
