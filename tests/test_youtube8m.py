"""Hit@1, PERR, GAP and mAP against plain loops, ties, ranks; names; predictions; ensembles."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from metrics.labels import read_names
from metrics.youtube8m import YouTube8M, average_precision, rank
from utils import ensemble
from utils.errors import ConfigError, DataError

K = 30


def data(count: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Distinct probabilities, and labels: some videos have none, some more than twenty."""
    rng = np.random.default_rng(seed)
    probability = rng.permutation(count * K).reshape(count, K).astype(np.float32) / (count * K)
    label = (rng.random((count, K)) < rng.choice([0.0, 0.1, 0.8], (count, 1))).astype(np.float32)
    label[:, K - 1] = 0  # a class without any label
    return probability, label


def by_loops(probability: np.ndarray, label: np.ndarray, topk: int) -> dict[str, float]:
    hits, perr, pool = [], [], []
    label = label.astype(np.float64)
    for p, labels in zip(probability, label, strict=True):
        order = sorted(range(K), key=lambda k: -p[k])
        hits.append(labels[order[0]])
        n = int(labels.sum())
        perr.append(sum(labels[k] for k in order[:n]) / n if n else 0.0)
        pool += [(p[k], labels[k], k) for k in order[:topk]]

    def precision(entries: list, positives: float) -> float:
        found = total = 0.0
        for i, (_, hit, _) in enumerate(sorted(entries, reverse=True), 1):
            if hit:
                found += 1
                total += found / i
        return total / positives if positives else 0.0

    classes = [precision([e for e in pool if e[2] == k], label[:, k].sum()) for k in range(K)]
    values = {"hit_at_one": np.mean(hits), "perr": np.mean(perr), "map": np.mean(classes)}
    return {**values, "gap": precision(pool, label.sum())}


def scored(metric: YouTube8M, probability: np.ndarray, label: np.ndarray, batch: int = 7) -> YouTube8M:
    for start in range(0, len(label), batch):
        part = slice(start, start + batch)
        outputs = {"probability": probability[part], "loss": np.float32(start)}
        metric.update(outputs, {"label": label[part]})
    return metric


def metric(topk: int = 20, **keys) -> YouTube8M:
    return YouTube8M(YouTube8M.Config(num_classes=K, topk=topk, **keys))


@pytest.mark.parametrize("topk", [1, 5, 20, 30, 50])
def test_values_are_those_of_plain_loops(topk):
    probability, label = data()
    result = scored(metric(topk), probability, label).result()
    for name, value in by_loops(probability, label, topk).items():
        assert result[name] == pytest.approx(value, abs=1e-9), name
    sizes = [len(label[start : start + 7]) for start in range(0, 40, 7)]
    assert result["loss"] == pytest.approx(np.average(range(0, 40, 7), weights=sizes))


def test_the_log_shows_gap_20_of_the_batch():
    probability, label = data()
    running = scored(metric(topk=3), probability, label, batch=10).running()
    assert running["gap"] == pytest.approx(by_loops(probability[30:], label[30:], 20)["gap"])
    assert set(running) == {"loss", "hit_at_one", "perr", "gap"}


def test_nothing_depends_on_order_or_ranks():
    probability, label = data()
    probability = np.round(probability, 1)  # many ties
    whole = scored(metric(), probability, label).result()
    shuffled = np.random.default_rng(1).permutation(len(label))
    again = scored(metric(), probability[shuffled], label[shuffled], batch=3).result()
    parts = [scored(metric(), probability[r::3], label[r::3]) for r in range(3)]
    parts[0].merge([part.state() for part in parts])
    for other in (again, parts[0].result()):
        for name in ("hit_at_one", "perr", "map", "gap"):
            assert other[name] == pytest.approx(whole[name], abs=1e-12), name


def test_python_s_random_numbers_are_left_alone():
    random.seed(3)
    expected = random.Random(3).random()
    scored(metric(), *data()).result()
    assert random.random() == expected


def test_before_the_first_video_there_is_no_value():
    assert metric().result() == {} and metric().running() == {}


def test_failures_count_as_wrong_where_that_has_a_value():
    counted = scored(metric(), *data())
    worse = counted.result_with_failures(40)
    assert set(worse) == {"hit_at_one", "perr"}
    assert worse["perr"] == pytest.approx(counted.result()["perr"] / 2)


def test_ranking_puts_the_smaller_class_first_among_equals():
    values, classes = rank(np.array([[0.0, 0.5, 0.5, -0.0], [1.0, 0.0, 1.0, 0.25]]), 3)
    assert classes.tolist() == [[1, 2, 0], [0, 2, 3]]
    assert values.tolist() == [[0.5, 0.5, 0.0], [1.0, 1.0, 0.25]]


def test_equal_probabilities_are_one_step():
    p = np.array([0.9, 0.5, 0.5, 0.1])
    assert average_precision(p, np.array([False, True, False, True]), 2) == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert average_precision(p, np.zeros(4, bool), 2) == 0.0


def test_predictions_have_names(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("".join(f"name {k}\n" for k in range(K)), encoding="utf-8")
    named = metric(topk=2, label_file=str(file))
    probability = np.zeros((1, K), np.float32)
    probability[0, [4, 9]] = 0.5, 0.75
    (record,) = named.decode({"probability": probability}, {"video": ["v"]})
    assert record == {
        "video": "v",
        "topk": [
            {"class_id": 9, "class_name": "name 9", "probability": 0.75},
            {"class_id": 4, "class_name": "name 4", "probability": 0.5},
        ],
    }
    assert "class: name 9,  probability:  0.75" in named.describe(record)
    assert "class: 9," in metric(topk=1).describe(metric(topk=1).decode(
        {"probability": probability}, {"video": ["v"]})[0])  # fmt: skip


def test_the_vocabulary_of_youtube_8m(tmp_path):
    file = tmp_path / "vocabulary.csv"
    file.write_text(
        "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl\n"
        '1,5,/m/02,"Cars, old",x\n0,9,/m/01,Game,x\n2,1,/m/03,,x\n3,1,/m/04,Game,x\n',
        encoding="utf-8",
    )
    assert read_names(str(file), 4) == ["Game", "Cars, old", "2", "Game"]
    file.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"vocabulary\.csv: cannot read the class names"):
        read_names(str(file), 1)


# ---- ensemble ----------------------------------------------------------------------------------


def write(path, entries: dict, **failed) -> str:
    records = [
        {
            "video": video,
            "topk": [{"class_id": k, "class_name": f"c{k}", "probability": p} for k, p in ranked.items()],
        }
        for video, ranked in entries.items()
    ]
    records += [{"video": video, "error": reason} for video, reason in failed.items()]
    path.write_text(json.dumps({"version": "VERSION 1.0", "model": path.stem, "results": records}))
    return str(path)


def test_predictions_are_averaged(tmp_path):
    first = write(tmp_path / "A.json", {"v": {1: 0.8, 2: 0.4}, "w": {3: 1.0}})
    second = write(tmp_path / "B.json", {"w": {3: 0.5, 1: 0.25}, "v": {2: 0.8, 0: 0.1}})
    out = tmp_path / "AB.json"
    assert ensemble.main([first, second, f"--out={out}", "--topk=2"]) == 0
    report = json.loads(out.read_text())
    ranked = {r["video"]: [(e["class_id"], e["probability"]) for e in r["topk"]] for r in report["results"]}
    assert list(ranked) == ["v", "w"]
    assert ranked["v"] == [(2, pytest.approx(0.6)), (1, pytest.approx(0.4))]
    assert ranked["w"] == [(3, pytest.approx(0.75)), (1, pytest.approx(0.125))]
    assert report["results"][0]["topk"][0]["class_name"] == "c2" and report["model"] == ["A", "B"]
    assert ensemble.main([first, second, f"--out={out}", "--weights=3,1"]) == 0
    weighted = json.loads(out.read_text())["results"][0]["topk"]
    assert [(e["class_id"], e["probability"]) for e in weighted[:2]] == [
        (1, pytest.approx(0.6)),
        (2, pytest.approx(0.5)),
    ]


def test_what_an_ensemble_refuses(tmp_path):
    first = write(tmp_path / "A.json", {"v": {1: 0.8}})
    other = write(tmp_path / "B.json", {"w": {1: 0.8}})
    failed = write(tmp_path / "C.json", {}, v="cannot be read")
    out = tmp_path / "out.json"
    with pytest.raises(DataError, match=r"not the same videos; 2 are in one of them only, e.g. v"):
        ensemble.main([first, other, f"--out={out}"])
    with pytest.raises(ConfigError, match="expected 2 numbers >= 0"):
        ensemble.main([first, first, f"--out={out}", "--weights=1"])
    (tmp_path / "D.json").write_text("{}")
    with pytest.raises(DataError, match=r"expected a result file of predict.py"):
        ensemble.main([first, str(tmp_path / "D.json"), f"--out={out}"])
    assert not out.exists()
    assert ensemble.main([first, failed, f"--out={out}"]) == 1
    assert json.loads(out.read_text())["results"] == [{"video": "v", "error": "cannot be read"}]
