"""Temporal proposals: soft-NMS, average recall, the metrics of BMN and BSN, their made-up set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from data.dataset.bmn import baseline, make_set
from metrics.activitynet import average_recall
from metrics.activitynet.boundaries import Boundaries
from metrics.activitynet.proposals import BoundaryMatching, ProposalEvaluation, boundaries
from models import ZOO
from tests.conftest import ROOT
from utils import build, tables, temporal
from utils.config import load_yaml, to_yaml
from utils.errors import ConfigError, DataError
from utils.registry import find

LOSSES = {"loss": 3.0, "tem_loss": 1.0, "pem_reg_loss": 0.1, "pem_cls_loss": 1.0}


# ---- soft-NMS ------------------------------------------------------------------------------------


def soft_nms_of_2019(segments, scores, alpha, low, high):
    """One proposal at a time, as BSN's authors wrote it."""
    left = [(*segment, score) for segment, score in zip(segments.tolist(), scores.tolist(), strict=True)]
    taken = []
    while len(left) > 1 and len(taken) < 101:
        best = max(range(len(left)), key=lambda i: left[i][2])
        start, end, score = left.pop(best)
        taken.append((start, end, score))
        for i, (a, b, value) in enumerate(left):
            common = max(min(b, end) - max(a, start), 0.0)
            overlap = common / ((b - a) - common + end - start)
            if overlap > low + (high - low) * (end - start):
                left[i] = (a, b, value * np.exp(-(overlap**2) / alpha))
    return np.array(taken).reshape(-1, 3)


@pytest.mark.parametrize("count", [2, 3, 60, 300])
@pytest.mark.parametrize(
    "constants", [(0.4, 0.55, 0.9), (0.75, 0.65, 0.9), (0.001, 0.5, 0.9), (0.4, 0.0, 0.0)]
)
def test_soft_nms_is_that_of_2019(count, constants):
    rng = np.random.default_rng(count)
    start = rng.integers(0, 90, count)
    segments = np.stack([start, start + rng.integers(1, 60, count)], axis=1) * 0.01  # overlaps on a grid
    scores = rng.random(count)
    indices, values = temporal.soft_nms(segments, scores, *constants)
    expected = soft_nms_of_2019(segments, scores, *constants)
    np.testing.assert_allclose(values, expected[:, 2], rtol=1e-12, atol=1e-300)
    np.testing.assert_array_equal(segments[indices], expected[:, :2])


def test_soft_nms_of_one_and_of_none():
    indices, values = temporal.soft_nms([[0.2, 0.4]], [0.7], 0.4, 0.55, 0.9)
    assert indices.tolist() == [0]
    assert values.tolist() == [0.7]
    indices, values = temporal.soft_nms(np.zeros((0, 2)), [], 0.4, 0.55, 0.9)
    assert len(indices) == len(values) == 0


# ---- recall --------------------------------------------------------------------------------------


def test_recall_by_hand():
    truth = {"a": np.array([[0.0, 10.0], [50.0, 60.0]]), "b": np.array([[5.0, 15.0]])}
    first = [[0.0, 10.0, 0.9], [50.0, 57.0, 0.5]]  # IoU 1 and 0.7
    proposals = {"a": np.array(first + [[90.0, 91.0, 0.1]] * 98), "b": np.array([[70.0, 80.0, 0.5]] * 100)}
    curve = average_recall.average_recall(truth, proposals)
    assert curve.num_proposals[[0, 99]].tolist() == [1.0, 100.0]
    at_once = 1 / 3  # one of three actions, at every threshold
    assert curve.average[0] == pytest.approx(at_once)
    assert curve.average[1] == pytest.approx(at_once + 5 / 10 / 3)  # thresholds up to 0.7
    assert curve.average[99] == pytest.approx(curve.average[1])
    shown = curve.percentages()
    assert shown["AR@1"] == pytest.approx(100 * at_once)
    assert shown["AUC"] == pytest.approx(100 * (0.5 * (at_once + 0.5) + 98 * 0.5) / 100)


def test_recall_as_the_official_loops_count():
    rng = np.random.default_rng(0)
    truth = {str(i): np.sort(rng.random((1 + i % 3, 2)), axis=1) for i in range(12)}
    proposals = {
        str(i): np.column_stack([np.sort(rng.random((n, 2)), axis=1), rng.random(n)])
        for i, n in enumerate([100, 40, 1, 0, 250, 100, 100, 7, 100, 100, 33])
    }
    proposals["unknown"] = proposals["0"]
    curve = average_recall.average_recall(truth, proposals)
    total = sum(map(len, proposals.values()))
    share = 100.0 * 12 / total
    kept = {v: p[np.argsort(-p[:, 2])][: int(len(p) * share)] for v, p in proposals.items() if v in truth}
    num_kept = sum(len(p) for p in kept.values())
    for point in (0, 28, 57, 99):
        part = np.arange(1, 101)[point] / 100.0 * (100.0 * 12 / num_kept)
        for row, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
            found = 0
            for video, segments in truth.items():
                rows = kept.get(video, np.zeros((0, 3)))
                rows = rows[: min(int(len(rows) * part), len(rows))]
                overlap = temporal.iou(segments, rows[:, :2])
                found += int((overlap >= threshold).any(axis=1).sum())
            assert curve.recall[row, point] == pytest.approx(found / sum(map(len, truth.values())))


def test_recall_of_nothing_is_zero():
    segment = np.array([[0.0, 1.0]])
    for truth, proposals in (({}, {}), ({"a": segment}, {}), ({"a": segment}, {"b": np.ones((1, 3))})):
        assert set(average_recall.average_recall(truth, proposals).percentages().values()) == {0.0}


def test_the_command_scores_a_result_file(tmp_path, capsys):
    about = {"subset": "validation", "annotations": [{"label": "x", "segment": [0, 10]}]}
    annotations, results = tmp_path / "annotations.json", tmp_path / "results.json"
    annotations.write_text(json.dumps({"database": {"one": about}}))
    rows = [{"score": 1.0, "segment": [0, 10]}] + [{"score": 0.1, "segment": [20, 30]}] * 99
    results.write_text(json.dumps({"results": {"v_one": rows}}))
    assert average_recall.main([str(results), str(annotations)]) == 0
    printed = capsys.readouterr().out
    assert "100 proposals; 1 actions of 1 videos" in printed
    assert "AR@1    100.000000" in printed
    assert "AUC     99.000000" in printed  # the curve starts at one proposal
    with pytest.raises(DataError, match="subsets: validation"):
        average_recall.main([str(results), str(annotations), "--subset", "test"])
    results.write_text('{"results": {"one": [{"score": 1.0}]}}')
    with pytest.raises(DataError, match="not a result of proposals"):
        average_recall.main([str(results), str(annotations)])


# ---- metrics -------------------------------------------------------------------------------------


def bmn_batch(names, steps=12, longest=10, seed=0, **losses):
    rng = np.random.default_rng(seed)
    count = len(names)
    outputs = {
        "pred_bm": rng.random((count, 2, longest, steps)).astype(np.float32),
        "pred_start": rng.random((count, steps)).astype(np.float32),
        "pred_end": rng.random((count, steps)).astype(np.float32),
        **losses,
    }
    known = [[{"segment": [2.0, 20.0 + i], "label": "jump"}] for i in range(count)]
    return outputs, {"video": list(names), "duration_second": [60.0] * count, "annotations": known}


def part(batch: dict, i: int) -> dict:
    return {name: values[i : i + 1] for name, values in batch.items() if name not in LOSSES}


def test_candidates_of_bmn_are_pairs_of_boundaries():
    outputs, batch = bmn_batch(["v_a"])
    table, scores = BoundaryMatching(BoundaryMatching.Config()).candidates(outputs, batch, 0)
    start, end = outputs["pred_start"][0], outputs["pred_end"][0]
    expected = []
    for length in range(10):
        for first in range(12 - length):
            last = first + length
            if (first == 0 or boundaries(start)[first]) and (last == 11 or boundaries(end)[last]):
                confidence = outputs["pred_bm"][0, :, length, first]
                score = start[first] * end[last] * confidence[0] * confidence[1]
                expected.append((first / 12, (last + 1) / 12, score))
    np.testing.assert_allclose(np.stack([table["xmin"], table["xmax"], scores], axis=1), expected, rtol=1e-6)


def test_boundaries_are_peaks_and_what_is_high():
    probability = np.array([0.1, 0.2, 0.1, 0.9, 0.5, 0.5, 0.46, 0.05, 0.06], np.float32)
    assert np.flatnonzero(boundaries(probability)).tolist() == [1, 3, 4, 5, 6, 8]


def test_a_batch_is_the_sum_of_its_videos(tmp_path):
    names = ["v_a", "v_b", "v_c"]
    outputs, batch = bmn_batch(names)
    together, apart = (BoundaryMatching(BoundaryMatching.Config()) for _ in range(2))
    together.update({**outputs, **LOSSES}, batch)
    parts = []
    for i in range(3):
        one = BoundaryMatching(BoundaryMatching.Config())
        one.update({**part(outputs, i), **LOSSES}, part(batch, i))
        parts.append(one.state())
    apart.merge(parts)
    assert together.result() == pytest.approx(apart.result())
    assert together.result()["loss"] == 3.0
    assert {"AR@1", "AR@100", "AUC"} <= set(together.result())
    for metric, folder in ((together, "together"), (apart, "apart")):
        (written,) = metric.write_results(str(tmp_path / folder))
        assert written.name == "bmn_results_validation.json"
    whole, merged = (json.loads((tmp_path / f / written.name).read_text()) for f in ("together", "apart"))
    assert whole == merged
    assert list(whole) == ["version", "results", "external_data"]
    assert list(whole["results"]) == ["a", "b", "c"]  # without v_
    assert all(
        0.0 <= s <= e <= 60.0 for rows in whole["results"].values() for s, e in (r["segment"] for r in rows)
    )


def test_training_counts_losses_alone():
    outputs, batch = bmn_batch(["v_a"])
    metric = BoundaryMatching(BoundaryMatching.Config())
    metric.update({**outputs, **LOSSES}, {"video": batch["video"]})
    metric.update({**outputs, **{name: 2 * value for name, value in LOSSES.items()}}, {"video": ["v_b"]})
    assert metric.result() == metric.running() == {name: 1.5 * value for name, value in LOSSES.items()}


def test_videos_without_annotation_are_written_but_not_scored(tmp_path):
    outputs, batch = bmn_batch(["v_a", "b"])
    metric = BoundaryMatching(BoundaryMatching.Config(subset="testing"))
    metric.update(outputs, {**batch, "annotations": [[], []]})
    assert metric.result() == {}
    (written,) = metric.write_results(str(tmp_path))
    assert written.name == "bmn_results_testing.json"
    assert set(json.loads(written.read_text())["results"]) == {"a", "b"}


def test_paths_of_the_recipe_hold_without_save_dir(tmp_path):
    outputs, batch = bmn_batch(["v_a"])
    paths = {"output_path": str(tmp_path / "tables" / "BMN_results"), "result_path": str(tmp_path / "json")}
    metric = BoundaryMatching(BoundaryMatching.Config(subset="test", **paths))
    records = metric.combine([*metric.decode(outputs, batch), {"video": "v_b", "error": "gone"}])
    assert set(records[0]) == {"video", "duration_second", "proposals"}
    assert json.dumps(records)
    (written,) = metric.write_results(None, records)
    assert written == tmp_path / "json" / "bmn_results_test.json"
    table = tables.read_csv(tmp_path / "tables" / "BMN_results" / "v_a.csv", ("xmin", "xmax", "score"))
    assert len(table["score"]) >= len(records[0]["proposals"])
    metric.write_results(str(tmp_path / "given"), records)
    assert sorted(path.name for path in (tmp_path / "given").iterdir()) == ["BMN_results", written.name]


def test_the_constants_of_the_recipe_work():
    outputs, batch = bmn_batch(["v_a"])
    found = []
    for constants in ({}, {"snms_alpha": 0.01}, {"snms_t1": 0.1}, {"snms_t2": 0.56}):
        (record,) = BoundaryMatching(BoundaryMatching.Config(**constants)).decode(outputs, batch)
        found.append([one["score"] for one in record["proposals"]])
    assert all(scores != found[0] for scores in found[1:])
    assert (ProposalEvaluation.Config().snms_alpha, ProposalEvaluation.Config().snms_t1) == (0.75, 0.65)


def test_times_are_fractions_where_the_duration_is_not_known():
    outputs, batch = bmn_batch(["v_a"])
    metric = BoundaryMatching(BoundaryMatching.Config())
    (known,) = metric.decode(outputs, batch)
    (unknown,) = metric.decode(outputs, {**batch, "duration_second": [None]})
    assert unknown["duration_second"] is None
    for mine, theirs in zip(unknown["proposals"], known["proposals"], strict=True):
        assert mine["segment"] == pytest.approx([second / 60.0 for second in theirs["segment"]])


def test_proposals_of_bsn_are_rated_by_the_product(tmp_path):
    proposals = np.array([[[0.1, 0.5, 0.9, 0.8], [0.6, 0.7, 0.5, 0.5], [0.0, 1.0, 0.1, 0.2]]], np.float32)
    overlap = np.array([[0.5], [1.0], [0.3]], np.float32)
    batch = {"video": ["v_a"], "duration_second": [10.0], "annotations": [[]], "props_info": proposals}
    metric = ProposalEvaluation(ProposalEvaluation.Config())
    (record,) = metric.decode({"pred_iou": overlap}, batch)
    assert [one["score"] for one in record["proposals"]] == pytest.approx([0.36, 0.25])  # the last goes
    assert record["proposals"][0]["segment"] == pytest.approx([1.0, 5.0])
    metric.update({"pred_iou": overlap}, batch)
    (written,) = metric.write_results(str(tmp_path))
    assert written.name == "bsn_results_validation.json"
    head, first, *_ = (tmp_path / "PEM_results" / "v_a.csv").read_text().splitlines()
    assert head == "xmin,xmax,xmin_score,xmax_score,iou_score"
    assert first == "0.1,0.5,0.9,0.8,0.5"  # as float32 shows them


def drawn(metric, record: dict, sample: dict) -> str:
    """Everything that a picture says."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    metric.draw(figure, record, sample)
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_best_proposals_and_the_annotation_are_drawn():
    outputs, batch = bmn_batch(["v_a"])
    metric = BoundaryMatching(BoundaryMatching.Config())
    (record,) = metric.decode(outputs, batch)
    said = drawn(metric, record, {"annotations": batch["annotations"][0]})
    best, start, end = record["proposals"][0]["score"], *record["proposals"][0]["segment"]
    for part in ("jump", f"{start:.1f} – {end:.1f}", f"{best:.2f}", "1 annotated", "60 s"):
        assert part in said, part
    (unknown,) = metric.decode(outputs, {**batch, "duration_second": [None]})
    said = drawn(metric, unknown, {"annotations": []})
    assert f"{100 * start / 60:.0f} – {100 * end / 60:.0f}" in said
    assert "100 %" in said


def test_proposals_of_curves_are_drawn():
    curves = np.full((1, 3, 20), 0.01, np.float32)
    curves[0, 0, 5], curves[0, 1, 9] = 0.9, 0.8
    metric = Boundaries(Boundaries.Config())
    batch = {"video": ["v_a"], "duration_second": [40.0], "subset": ["validation"]}
    batch["annotations"] = [[{"segment": [10.0, 20.0], "label": "jump"}]]
    (record,) = metric.decode({"pred_tem": curves}, batch)
    said = drawn(metric, record, {"annotations": batch["annotations"][0]})
    assert "jump" in said
    assert "10.0 – 20.0" in said
    assert "0.72" in said


# ---- the made-up set -----------------------------------------------------------------------------


def make(out: Path, **flags) -> int:
    settings = {"num_train": 48, "num_val": 24, "tscale": 64, "fewest": 2, "pairs": 8, "seed": 0, **flags}
    return make_set.make(argparse.Namespace(out=str(out), **settings))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("activitynet") / "a set"
    assert make(out) == 72
    return out


@pytest.fixture(scope="module")
def recipe(made: Path) -> str:
    """The small recipe of BMN, with the paths of the set."""
    sections = load_yaml(ROOT / "configs" / "demo" / "bmn.yaml")
    sections["MODEL"] |= {"anno_file": str(made / "annotations.json"), "feat_path": str(made / "fix_feat")}
    path = made / "bmn.yaml"
    path.write_text(to_yaml(sections), encoding="utf-8")
    return str(path)


def test_the_set_is_the_same_each_time_and_resumes(made, tmp_path):
    again = tmp_path / "again"
    make(again)
    (again / "fix_feat" / "v_val00003.npy").unlink()
    assert make(again) == 1
    for file in [made / "annotations.json", made / "infer.list", *(made / "fix_feat").iterdir()]:
        assert file.read_bytes() == (again / file.relative_to(made)).read_bytes(), file
    with pytest.raises(ConfigError, match="was made with"):
        make(again, seed=1)


def test_annotations_are_as_those_of_activitynet():
    videos = [make_set.annotate(np.random.default_rng([5, i])) for i in range(4000)]
    fractions = [(s[:, 1] - s[:, 0]) / seconds for seconds, s in videos]
    counts = np.array(list(map(len, fractions)))
    assert all((s[:, 0] >= 0).all() and (s[:, 1] <= seconds * (1 + 1e-9)).all() for seconds, s in videos)
    assert all((s[1:, 0] >= s[:-1, 1] - 1e-9).all() for _, s in videos)
    assert np.mean([seconds for seconds, _ in videos]) == pytest.approx(118, rel=0.05)
    assert counts.mean() == pytest.approx(1.54, abs=0.06)
    assert (counts == 1).mean() == pytest.approx(0.755, abs=0.03)
    every = np.concatenate(fractions)
    # percentiles of an action's part of its video; few are of middle length
    expected = {5: (0.019, 0.01), 25: (0.078, 0.04), 50: (0.326, 0.09), 75: (0.794, 0.04)}
    for percent, (value, slack) in expected.items():
        assert np.percentile(every, percent) == pytest.approx(value, abs=slack), percent
    assert np.mean([f.sum() for f in fractions]) == pytest.approx(0.66, abs=0.03)
    single = np.concatenate([f for f in fractions if len(f) == 1])
    assert single.mean() == pytest.approx(0.71, abs=0.04)
    assert (single > 0.9).mean() == pytest.approx(0.318, abs=0.05)
    double = np.concatenate([f for f in fractions if len(f) == 2])
    assert double.mean() == pytest.approx(0.27, abs=0.02)


def test_one_channel_is_the_same_inside_and_outside(made):
    about = json.loads((made / "annotations.json").read_text())
    inside, outside = [], []
    for name, video in about.items():
        values = np.load(made / "fix_feat" / f"{name}.npy")
        middle = (np.arange(64) + 0.5) / 64 * video["duration_second"]
        within = np.zeros(64, bool)
        for one in video["annotations"]:
            within |= (middle > one["segment"][0]) & (middle < one["segment"][1])
        inside.append(values[within]), outside.append(values[~within])
    inside, outside = np.concatenate(inside), np.concatenate(outside)  # (…, 16)
    assert np.abs(inside.mean(axis=0) - outside.mean(axis=0)).max() < 0.15
    assert np.abs(inside.std(axis=0) - outside.std(axis=0)).max() < 0.15
    products = [(rows[:, 0::2] * rows[:, 1::2]).mean() for rows in (inside, outside)]
    assert products[0] > 0.8
    assert products[1] < -0.8


def test_a_threshold_on_one_channel_stays_behind_what_can_be_learnt(made, recipe):
    spec, sections = find("BMN", ZOO), load_yaml(recipe)
    one_channel = baseline.score(recipe, num_train=24)["AUC"]
    reader = build.reader(spec, sections, "TEST", recipe)
    samples = [reader[i] for i in range(len(reader))]
    for sample in samples:  # the mean of the products of pairs: what a network can find
        feat = sample["feat"]
        sample["feat"] = (feat[0::2] * feat[1::2]).mean(axis=0, keepdims=True)
    snms = build.metric(spec, sections, "TEST", recipe).config
    of_pairs = baseline.of_channel(samples, "as it is", 1, 0, snms)["AUC"]
    assert of_pairs > one_channel + 20.0


def test_the_small_recipes_fit_the_set(recipe):
    spec, sections = find("BMN", ZOO), load_yaml(recipe)
    for mode in ("TRAIN", "VALID", "TEST"):
        reader = build.reader(spec, sections, mode, recipe)
        sample = reader[0]
        assert sample["feat"].shape == (16, 64)
        assert sample["gt_iou_map"].max() > 0.7
