"""Top-k accuracy and ranked classes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from metrics.labels import read_names
from metrics.topk import TopKAccuracy
from utils.errors import ConfigError


def metric(**keys):
    return TopKAccuracy(TopKAccuracy.Config(**{"num_classes": 6, "topk": 2, **keys}))


def test_values_are_percentages_weighted_by_sample():
    scores = metric()
    first = np.eye(6)[[0, 1, 2]]
    scores.update({"probability": first, "loss": np.float32(1.0)}, {"label": np.array([[0], [1], [5]])})
    scores.update({"probability": np.eye(6)[[4]], "loss": np.float32(5.0)}, {"label": np.array([[4]])})
    # Among the equal zeros the smaller classes come first, so class 5 is the sixth of [2, 0, 1, 3, 4, 5].
    assert scores.result() == {"loss": 2.0, "top1_acc": 75.0, "top5_acc": 75.0}
    assert scores.result_with_failures(4) == {"top1_acc": 37.5, "top5_acc": 37.5}


def test_fewer_than_five_classes():
    scores = metric(num_classes=3)
    scores.update({"probability": np.eye(3), "loss": 0.0}, {"label": np.array([[0], [2], [1]])})
    assert scores.result()["top5_acc"] == 100.0
    assert scores.result()["top1_acc"] == pytest.approx(100 / 3)


def test_nothing_seen_gives_nothing():
    assert metric().result() == {}
    assert metric().result_with_failures(3) == {}


def test_ranks_add_up():
    parts = [metric() for _ in range(3)]
    for i, part in enumerate(parts[:2]):
        part.update({"probability": np.eye(6)[[i]], "loss": float(i)}, {"label": np.array([[0]])})
    parts[0].merge([part.state() for part in parts])
    assert parts[0].result() == {"loss": 0.5, "top1_acc": 50.0, "top5_acc": 100.0}


def test_predictions_name_classes(tmp_path):
    names = tmp_path / "names.json"
    names.write_text(json.dumps(["a", "b", "c", "d", "跑", "f"]), encoding="utf-8")
    probability = np.array([[0.1, 0.2, 0.0, 0.0, 0.7, 0.0]], np.float32)
    scores = metric(kinetics_labels=str(names))
    (record,) = scores.decode({"probability": probability}, {"video": ["x.mp4"]})
    assert record["video"] == "x.mp4"
    assert [(e["class_id"], e["class_name"]) for e in record["topk"]] == [(4, "跑"), (1, "b")]
    assert record["topk"][0]["probability"] == pytest.approx(0.7)
    assert "跑" in json.dumps(record, ensure_ascii=False)
    assert "class: 跑,  probability:  0.6999" in scores.describe(record)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("n.json", '["a", "b"]', ["a", "b"]),
        ("n.json", '{"b": 1, "a": 0}', ["a", "b"]),
        ("n.txt", "a\nb\n", ["a", "b"]),
    ],
)
def test_class_names_from_json_or_text(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    assert read_names(str(tmp_path / name), 2) == expected
    with pytest.raises(ConfigError, match=r"2 class names, but MODEL\.num_classes is 3"):
        read_names(str(tmp_path / name), 3)


def test_a_broken_label_file_is_named(tmp_path):
    (tmp_path / "n.json").write_text("[")
    with pytest.raises(ConfigError, match=r"n\.json: cannot read the class names"):
        read_names(str(tmp_path / "n.json"), 1)
