"""The metrics of BMN and BSN against recorded values and result files, and the official recall of these."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from metrics.activitynet import average_recall
from metrics.activitynet.records import read_annotations, read_results
from tests.conformance.cases import Case, assert_close, read_json
from tests.conformance.tolerances import tolerance


def compare(case: Case, described: dict, sections: dict, metric: Any, folder: Path) -> None:
    """The steps of one case: mean losses, and everything that is written."""
    limit = tolerance(case.label, "metric")
    about = read_json(Path(sections["MODEL"]["anno_file"]).resolve())
    file = case.folder / case.name / "inputs.npz"
    arrays = np.load(file)
    records = []
    for step in described["steps"]:
        if step["op"] == "reset":
            metric.reset()
        elif step["op"] == "accumulate":
            outputs, batch = _fetched(case, described, step, arrays, about)
            if described["mode"] == "infer":
                records += metric.decode(outputs, batch)
            else:
                metric.update(outputs, batch)
        elif step["op"] == "finalize_and_log_out":
            for name, value in step.get("values", {}).items():
                assert_close(metric.running()[name.removeprefix("avg_")], value, limit, name)
    if described["mode"] == "infer":
        records = metric.combine(records)
    if described["files"]:
        written = metric.write_results(str(folder), records if described["mode"] == "infer" else None)
        assert all(path.exists() for path in written)
    for name in described["files"]:
        _compare_files(case, folder / name, case.folder / case.name / name, limit)


def _fetched(case: Case, described: dict, step: dict, arrays: Any, about: dict) -> tuple[dict, dict]:
    """Recorded fetches as our outputs and batch of one; 2019's order is losses, outputs, targets or ids."""
    values = [arrays[name] for name in step["fetch"] if isinstance(name, str)]
    losses = () if described["mode"] == "infer" else case.spec.losses
    outputs = dict(zip(losses + case.spec.outputs, values, strict=False))
    if described["mode"] == "valid":
        return outputs, {}
    video = described["video_list"][step["batch"]]
    if "pred_bm" in outputs:  # recorded in half precision, and its loss had flattened the others
        outputs["pred_bm"] = outputs["pred_bm"].astype(np.float32)
        for name in ("pred_start", "pred_end"):
            outputs[name] = outputs[name].reshape(1, -1)
    batch = {"video": [video], "duration_second": [about[video]["duration_second"]]}
    batch |= {"annotations": [about[video]["annotations"]], "subset": [about[video]["subset"]]}
    if case.label == "BsnPem":
        batch["props_info"] = values[2] if described["mode"] == "test" else _proposals_of(video)[None]
    return outputs, batch


def _proposals_of(video: str) -> np.ndarray:
    rows = _table(Path("bsn") / "INFER_PGM_proposals" / f"{video}.csv")
    return np.array([row[:4] for row in rows[1:]], np.float64)


def _table(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.reader(lines))


def _compare_files(case: Case, ours: Path, recorded: Path, limit: float) -> None:
    if ours.suffix == ".csv":
        (head, *mine), (expected_head, *expected) = _table(ours), _table(recorded)
        assert head == expected_head, ours
        order, same = _in_order(head, mine), _in_order(head, expected)
        mine, expected = np.array(mine, np.float64)[order], np.array(expected, np.float64)[same]
        known = _without_cut_ties(head, expected)
        assert_close(mine[known], expected[known], 1e-12, str(ours))
        if "score" in head:  # where ties are cut, other proposals of the same score are kept
            score = head.index("score")
            assert_close(mine[:, score], expected[:, score], 1e-12, str(ours))
    elif ours.suffix == ".npy":
        tables = [_table(_proposals_beside(file)) for file in (ours, recorded)]
        orders = [_in_order(head, rows) for head, *rows in tables]
        known = _without_cut_ties(tables[1][0], np.array(tables[1][1:], np.float64)[orders[1]])
        mine, expected = (
            np.load(file)[order][known] for file, order in zip((ours, recorded), orders, strict=True)
        )
        assert_close(mine, expected, limit, str(ours))
    else:
        found, expected = (json.loads(file.read_text(encoding="utf-8")) for file in (ours, recorded))
        assert list(found) == ["version", "results", "external_data"]
        assert {**found, "results": None} == {**expected, "results": None}
        assert sorted(found["results"]) == sorted(expected["results"])
        for video, rows in expected["results"].items():
            for name in ("score", "segment"):
                mine = [row[name] for row in found["results"][video]]
                assert_close(mine, [row[name] for row in rows], limit, f"{case.id} {video} {name}")


def _proposals_beside(features: Path) -> Path:
    return features.parents[1] / "PGM_proposals" / f"{features.stem}.csv"


def _in_order(head: list[str], rows: list[list[str]]) -> np.ndarray:
    """Of generated proposals: equal scores, in any order in 2019, by start and end."""
    if head[:2] != ["xmin", "xmax"] or "match_iou" not in head:
        return np.arange(len(rows))
    values = np.array(rows, np.float64)
    return np.lexsort((values[:, 1], values[:, 0], -values[:, head.index("score")]))


def _without_cut_ties(head: list[str], rows: np.ndarray) -> np.ndarray:
    """Rows whose score is not that of the last one: of these it is not known which were left out."""
    if "match_iou" not in head:
        return np.ones(len(rows), bool)
    scores = rows[:, head.index("score")]
    return scores > scores.min()


def compare_recall(folder: Path, name: str, recorded: dict) -> None:
    """The official recall of a recorded result file; ``name`` ends with the number of proposals a video."""
    truth_file = folder / "data" / "bmn" / "activity_net_1_3_gt.json"
    truth = average_recall.by_video(read_annotations(str(truth_file), "validation"))
    case, _, most = name.rpartition("_max")
    (file,) = (folder / "metrics" / case).glob("*_results_validation.json")
    found = average_recall.by_video(read_results(str(file), set(truth), labelled=False))
    curve = average_recall.average_recall(
        {video: rows[:, :2] for video, rows in truth.items()}, found, int(most)
    )
    assert_close(curve.recall, recorded["recall"], 1e-6, f"{name} recall")
    assert_close(curve.average, recorded["avg_recall"], 1e-6, f"{name} average recall")
    assert_close(curve.num_proposals, recorded["proposals_per_video"], 1e-6, f"{name} proposals")
    assert_close(curve.auc, recorded["AUC"], 1e-6, f"{name} area")
    shown = curve.percentages()
    assert_close(shown["AUC"], recorded["AUC_normalised_percent"], 1e-6, f"{name} AUC")
    for number, value in recorded["AR_at"].items():
        assert_close(100 * curve.average[int(number) - 1], value, 1e-6, f"{name} AR@{number}")
