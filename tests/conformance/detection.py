"""C-TCN's metric against recorded values, result files and the official mAP of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from metrics.activitynet import average_precision
from metrics.activitynet.records import read_annotations, read_results
from tests.conformance.cases import Case, assert_close, read_json
from tests.conformance.tolerances import tolerance


def compare(case: Case, described: dict, sections: dict, metric: Any, folder: Path) -> None:
    """The steps of one case: mean losses, and the detections as they are written."""
    limit = tolerance(case.label, "metric")
    listed = Path(sections["TEST"]["filelist"]).read_text(encoding="utf-8").splitlines()
    names = [line.split()[0] for line in listed]
    file = case.folder / case.name / "inputs.npz"
    arrays = np.load(file) if file.exists() else {}
    records = []
    for step in described["steps"]:
        if step["op"] == "reset":
            metric.reset()
        elif step["op"] == "accumulate" and described["mode"] == "infer":
            video, outputs = names[0], _nothing_found()
            if "fetch" in step:
                (video,) = step["fetch"][-1]["literal"]
                values = [arrays[key] for key in step["fetch"][:-1]]
                outputs = dict(zip(case.spec.outputs, values, strict=True))
            records += metric.decode(outputs, {"video": [video]})
        elif step["op"] == "accumulate":
            values = [arrays[key] for key in step["fetch"]]
            outputs = dict(zip(case.spec.losses + case.spec.outputs, values, strict=False))
            batch = {}
            if described["mode"] == "test":
                videos = [names[number] for number in values[-1].reshape(-1)]
                batch = {"video": videos, "actions": [[] for _ in videos]}
            metric.update(outputs, batch)
        elif step["op"] == "finalize_and_log_out":
            for name, value in step.get("values", {}).items():
                assert_close(metric.running()[name.removeprefix("avg_")], value, limit, name)
    for name in described["files"]:
        written = metric.write_results(str(folder), records if described["mode"] == "infer" else None)
        assert [path.name for path in written] == [name]
        _compare_files(case, written[0], case.folder / case.name / name, limit)


def _nothing_found() -> dict[str, np.ndarray]:
    """2019 then made up one detection, and left half a file."""
    return {"loc": np.zeros((1, 1785, 2), np.float32), "probability": np.zeros((1, 1785, 12), np.float32)}


def _compare_files(case: Case, ours: Path, recorded: Path, limit: float) -> None:
    found = json.loads(ours.read_text(encoding="utf-8"))
    assert list(found) == ["version", "external_data", "results"]
    assert found["external_data"] == {"used": False, "details": "none"}
    if "nothing_found" in case.name:
        assert list(found["results"].values()) == [[]]
        return
    expected = read_json(recorded)["results"]
    assert list(found["results"]) == list(expected)
    for video, rows in expected.items():
        # Segments that end before they start are not written; they only come from places beyond [-5, 5].
        rows = [row for row in rows if row["segment"][1] > row["segment"][0]]
        mine = found["results"][video]
        assert [row["label"] for row in mine] == [row["label"] for row in rows], video
        assert_close([row["score"] for row in mine], [row["score"] for row in rows], limit, f"{video} scores")
        segments = [row["segment"] for row in rows]
        assert_close([row["segment"] for row in mine], segments, limit, f"{video} segments")


def compare_map(folder: Path, name: str, recorded: dict) -> None:
    """The official mAP of a recorded result file, whose labels are those of the annotation."""
    truth = read_annotations(str(folder / "data" / "bmn" / "activity_net_1_3_gt.json"), "validation")
    file = folder / "metrics" / name / "relabelled_for_map.json"
    found = read_results(str(file), {action.video for action in truth}, labelled=True)
    scores = average_precision.mean_average_precision(truth, found)
    assert_close(scores["mAP"], recorded["mAP_per_tIoU"], 1e-6, f"{name} mAP")
    assert_close(scores["average_mAP"], recorded["average_mAP"], 1e-6, f"{name} average mAP")
    # Recorded in another order of classes.
    ours, theirs = np.sort(scores["ap"], axis=1), np.sort(recorded["ap"], axis=1)
    assert_close(ours, theirs, 1e-6, f"{name} AP by class")
