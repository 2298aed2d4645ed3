"""C-TCN: anchors and matching, suppression, reader and lists, detections and their mAP, the folded head."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from matplotlib.figure import Figure

from benchmark import detection as benchmark
from data.dataset.ctcn import make_lists, make_set
from metrics.activitynet import average_precision
from metrics.activitynet.average_precision import Action, mean_average_precision
from metrics.activitynet.detection import Detection, read_durations
from models.ctcn import CTCN, stretch
from reader import ctcn_reader
from reader.ctcn_reader import CTCNReader, read_list
from tests.recipes import ctcn as recipe
from utils import anchors, temporal
from utils.errors import ConfigError, DataError

SMALL = {"num_classes": 4, "img_size": 64, "concept_size": 8, "total_num_anchors": 238, "channels": 4}


# ---- anchors, overlap, suppression -----------------------------------------------------------------


def test_anchors_cover_every_level_of_any_length():
    for length in (512, 64, 100):
        made = anchors.anchors(length, 7)
        assert made.shape == (anchors.count(length, 7), 2)
        assert (made[:, 0] > 0).all() and (made[:, 0] < length).all()
    assert anchors.count(512, 7) == 1785


def test_decoding_gives_back_what_was_encoded():
    made, segments = anchors.anchors(512, 7), np.array([[100.0, 180.0], [300.0, 309.0]])
    place, classes = anchors.encode(made, segments, np.array([3, 5]))
    assert set(classes) == {0, 3, 5}
    decoded = anchors.decode(made, place)
    for i, kind in enumerate((3, 5)):
        assert decoded[classes == kind] == pytest.approx(
            np.tile(segments[i], ((classes == kind).sum(), 1)), abs=1e-3
        )


def test_every_segment_finds_an_anchor_however_short():
    made = anchors.anchors(512, 7)
    _, classes = anchors.encode(
        made, np.array([[10.0, 10.2], [10.1, 10.3], [400.0, 400.5]]), np.array([1, 2, 3])
    )
    assert [int((classes == kind).sum()) for kind in (1, 2, 3)] == [1, 1, 1]


def test_no_segment_is_all_background():
    place, classes = anchors.encode(anchors.anchors(64, 7), np.zeros((0, 2)), np.zeros(0, np.int64))
    assert place.shape == (238, 2) and not classes.any()


def test_overlap_of_empty_and_inverted_segments_is_nothing():
    overlap = temporal.iou([[0, 10], [5, 5], [8, 2]], [[0, 5], [5, 5]])
    assert overlap.tolist() == [[0.5, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_suppression_against_plain_loops():
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 80, 60)
    segments, scores = np.stack([start, start + rng.uniform(1, 30, 60)], 1), rng.random(60)
    overlap = temporal.iou(segments, segments)
    kept = []
    for i in sorted(range(60), key=lambda i: -scores[i]):
        if all(overlap[j, i] <= 0.5 for j in kept):
            kept.append(i)
    assert temporal.nms(overlap, scores, 0.5).tolist() == kept

    left, expected = dict(enumerate(scores)), []
    while left:
        best = max(left, key=left.get)
        expected.append((best, left.pop(best)))
        left = {i: s * np.exp(-(overlap[best, i] ** 2) / 0.9) for i, s in left.items()}
        left = {i: s for i, s in left.items() if s >= 0.1}
    indices, values = temporal.gaussian_soft_nms(overlap, scores, 0.9, 0.1)
    assert indices.tolist() == [i for i, _ in expected]
    assert values == pytest.approx([s for _, s in expected])


# ---- network ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_folded_heads_give_what_two_convolutions_give(training):
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        network = CTCN(CTCN.Config(**SMALL, dropout_rate=0.0))
    for parameter in network.parameters():
        if len(parameter.shape) == 1:
            parameter.set_value(paddle.rand(parameter.shape) + 0.5)
    network.train() if training else network.eval()
    image = paddle.randn([2, 1, 64, 8])
    ours, plain = network(image), benchmark.plain(network, image)
    for name in plain:
        error = float((ours[name] - plain[name]).abs().max() / plain[name].abs().max())
        assert error < 1e-4, name
    gradients = []
    for outputs in (ours, plain):
        (outputs["loc"].sum() + outputs["logits"].square().sum()).backward()
        gradients.append([p.grad.numpy() for p in (network.loc_conv1.weight, network.loc_conv2.bias)])
        network.clear_gradients()
    for a, b in zip(*gradients, strict=True):
        assert np.abs(a - b).max() <= 1e-3 * np.abs(b).max()


def test_stretching_is_bilinear_resizing():
    x = paddle.randn([2, 3, 5, 4])
    expected = F.interpolate(x, size=[9, 4], mode="bilinear", align_corners=True, align_mode=1)
    assert np.abs(stretch(x, 9).numpy() - expected.numpy()).max() < 1e-5
    assert np.abs(stretch(x[:, :, :1], 2).numpy() - x[:, :, [0, 0]].numpy()).max() == 0


def test_the_number_of_anchors_is_checked():
    with pytest.raises(ConfigError, match="gives 238"):
        CTCN(CTCN.Config(**{**SMALL, "total_num_anchors": 1785}))


def test_loss_of_hard_negatives_and_without_a_positive_anchor():
    with paddle.utils.unique_name.guard():
        network = CTCN(CTCN.Config(**SMALL))
    logits = paddle.zeros([1, 238, 4])
    outputs = {"loc": paddle.ones([1, 238, 2]) * 3.0, "logits": logits}
    classes = np.zeros((1, 238), np.int64)
    batch = {"loc_targets": paddle.zeros([1, 238, 2]), "cls_targets": paddle.to_tensor(classes)}
    assert float(network.loss(outputs, batch)["loss"]) == 0.0
    classes[0, :2] = 1
    batch["cls_targets"] = paddle.to_tensor(classes)
    losses = network.loss(outputs, batch)
    assert float(losses["loc_loss"]) == pytest.approx(2 * 2 * 2.5)  # two values of |3| - 0.5, twice
    assert float(losses["cls_loss"]) == pytest.approx((2 + 6) * np.log(4) / 2)  # 3 negatives a positive


# ---- reader ----------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    root = recipe.features(tmp_path)

    def make(**changed):
        usual = {"img_size": 64, "concept_size": 8, "num_classes": 4, "root": str(root), "rgb": "rgb"}
        usual |= {"flow": "flow", "filelist": str(tmp_path / "all.listformat")}
        return CTCNReader.Config(**{**usual, **changed})

    return make


def test_training_draws_depend_on_seed_epoch_and_index_alone(config):
    first, second = CTCNReader(config(), "TRAIN", 3), CTCNReader(config(), "TRAIN", 3)
    random.seed(5)
    a = [first[i] for i in range(8)]
    random.seed(6)
    b = [second[i] for i in (7, 0)]
    for mine, other in ((a[7], b[0]), (a[0], b[1])):
        assert (mine["image"] == other["image"]).all() and (mine["cls_targets"] == other["cls_targets"]).all()
    second.set_epoch(1)
    assert not np.array_equal(second[0]["image"], a[0]["image"])
    assert all(sample["cls_targets"].any() for sample in a)


def test_one_stream_of_plain_arrays_of_any_width(config, tmp_path):
    (tmp_path / "feats" / "mine").mkdir()
    values = np.random.default_rng(0).random((30, 5))
    np.save(tmp_path / "feats" / "mine" / "v_0.npy", values)
    sample = CTCNReader(config(rgb="mine", flow=None, concept_size=5), "TEST")[0]
    assert sample["image"].shape == (1, 64, 5) and sample["image"].dtype == np.float32
    assert (sample["image"][0, 0] == values[0].astype(np.float32)).all()
    with pytest.raises(DataError, match=r"width 5, expected 8 \(MODEL.concept_size\)"):
        CTCNReader(config(rgb="mine", flow=None), "TEST")[0]


@pytest.mark.parametrize(
    "text, said",
    [
        ("v_0 40", "expected 'video frames count'"),
        ("v_0 40 2 1 3 9", "expected 'video frames count'"),
        ("v_0 40 1 one 3 9", "expected numbers"),
        ("v_0 40 1 9 3 9", "class 9 is outside"),
        ("v_0 40 1 0 3 9", "class 0 is outside"),
        ("v_0 40 1 1 9 3", "before it starts"),
        ("v_0 0 0", "0 frames"),
        ("v_0 40 nan", "expected 'video frames count'"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, text, said):
    file = tmp_path / "bad.listformat"
    file.write_text(f"v_1 30 0\n{text}\n", encoding="utf-8")
    with pytest.raises(DataError, match="bad.listformat:2.*" + said.replace("(", r"\(")):
        read_list(str(file), 4)


def test_features_that_cannot_be_read_are_named(config, tmp_path):
    reader = CTCNReader(config(), "TEST")
    file = tmp_path / "feats" / "flow" / "v_2.pkl"
    for content, said in (
        (b"no pickle", "not a readable pickle"),
        (pickle.dumps({"scores": [[1.0, float("nan")]]}), "not finite"),
        (pickle.dumps({"other": 1}), "cannot read|expected features"),
        (pickle.dumps({"scores": [1.0]}), "expected features"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=said):
            reader[2]
    file.unlink()
    with pytest.raises(DataError, match=r"v_2.pkl: no such features \(.*:3"):
        reader[2]


def test_videos_without_an_action_train_nothing_and_count_in_evaluation(config, tmp_path):
    listed = tmp_path / "empty.listformat"
    listed.write_text("v_0 40 0\nv_1 43 1 2 5 19\n", encoding="utf-8")
    assert len(CTCNReader(config(filelist=str(listed)), "TRAIN")) == 1
    sample = CTCNReader(config(filelist=str(listed)), "TEST")[0]
    assert sample["actions"] == [] and not sample["cls_targets"].any()


def test_a_video_full_of_actions_is_cropped_but_not_rearranged():
    features = np.arange(20.0, dtype=np.float32).reshape(10, 2)
    segments, classes = np.array([[0.0, 9.0]]), np.array([1])
    assert ctcn_reader.move_actions(features, segments, classes, random.Random(0))[0] is features
    for seed in range(20):
        part, inside, kinds = ctcn_reader.crop(features, segments, classes, random.Random(seed))
        assert len(inside) == len(kinds) and (inside <= len(part)).all() and (inside >= 0).all()


# ---- detections and their mAP ----------------------------------------------------------------------


def test_map_by_hand():
    truth = [Action("a", "run", 0, 10), Action("a", "run", 20, 30), Action("b", "jump", 0, 4)]
    found = [
        Action("a", "run", 0, 10, 0.9),
        Action("a", "run", 0, 10, 0.8),  # a second one of the same action: wrong
        Action("b", "run", 0, 10, 0.7),  # no such action there: wrong
        Action("a", "run", 20, 27, 0.6),  # 0.7
        Action("b", "swim", 0, 4, 0.5),  # a class without truth does not count
    ]
    scores = mean_average_precision(truth, found)
    assert scores["classes"] == ["jump", "run"]
    assert scores["ap"][0] == pytest.approx([0.0, 0.5 + 0.5 * 2 / 4])
    assert scores["ap"][5] == pytest.approx([0.0, 0.5])  # at 0.75
    assert scores["average_mAP"] == pytest.approx((5 * 0.75 + 5 * 0.5) / 10 / 2)


def test_nothing_detected_scores_nothing():
    scores = mean_average_precision([Action("a", "run", 0, 10)], [])
    assert scores["average_mAP"] == 0.0 and scores["mAP"].tolist() == [0.0] * 10


def test_the_command_scores_a_result_file(tmp_path, capsys):
    annotation = {"abc": {"subset": "validation", "annotations": [{"label": "run", "segment": [0, 10]}]}}
    (tmp_path / "truth.json").write_text(json.dumps({"database": annotation}), encoding="utf-8")
    result = {"results": {"v_abc": [{"label": "run", "score": 0.5, "segment": [0, 8]}]}}
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    files = [str(tmp_path / "result.json"), str(tmp_path / "truth.json")]
    assert average_precision.main(files) == 0
    printed = capsys.readouterr().out
    assert "mAP@0.80  1.000000" in printed and "mAP@0.85  0.000000" in printed
    with pytest.raises(DataError, match="subsets: validation"):
        average_precision.main([*files, "--subset", "testing"])
    with pytest.raises(DataError, match="not a result"):
        average_precision.main([files[1], files[1]])


@pytest.fixture
def metric(tmp_path):
    recipe.features(tmp_path)
    made = Detection(
        Detection.Config(
            num_classes=4,
            img_size=64,
            class_label_file=str(tmp_path / "labels.txt"),
            video_duration_file=str(tmp_path / "durations.list"),
        )
    )
    made.prepare()
    return made


def perfect(metric, actions, seconds=60.0):
    """Outputs that detect ``actions`` (class, start, end; fractions) and nothing else."""
    place, classes = anchors.encode(
        metric.anchors, np.array([a[1:] for a in actions]) * 64, np.array([a[0] for a in actions])
    )
    probability = np.zeros((238, 4), np.float32)
    probability[np.arange(238), classes] = 1.0
    return {"loc": place[None], "probability": probability[None]}


def test_what_is_annotated_and_found_scores_one(metric, tmp_path):
    actions = [[1, 0.1, 0.4], [3, 0.5, 0.95]]
    metric.update(perfect(metric, actions), {"video": ["v_0"], "actions": [actions]})
    assert metric.result()["average_mAP"] == pytest.approx(1.0)
    (record,) = metric.decode(perfect(metric, actions), {"video": ["v_0"]})
    best = record["detections"][0]
    assert best["label"] == "action 0" and best["segment"] == pytest.approx([6.0, 24.0], abs=1e-3)
    (path,) = metric.write_results(str(tmp_path))
    assert path.name == "CTCN_test_res_decode_0.001_0.8_0.9_0.004.json"
    assert json.loads(path.read_text())["results"]["v_0"] == record["detections"]
    figure = Figure()
    metric.draw(figure, record, {})
    assert figure.axes


def test_nothing_found_is_an_empty_valid_file(metric, tmp_path):
    nothing = {"loc": np.zeros((1, 238, 2)), "probability": np.zeros((1, 238, 4))}
    records = metric.decode(nothing, {"video": ["v_0"]})
    (path,) = metric.write_results(str(tmp_path), records)
    assert json.loads(path.read_text())["results"] == {"v_0": []}
    figure = Figure()
    metric.draw(figure, records[0], {})


def test_the_sum_of_two_ranks_is_the_whole(metric, tmp_path):
    actions = [[1, 0.1, 0.4]]
    batches = [({"video": [f"v_{i}"], "actions": [actions]}) for i in range(3)]
    losses = {"loss": np.array([2.0]), "loc_loss": np.array([0.5]), "cls_loss": np.array([1.5])}
    outputs = {**perfect(metric, actions), **losses}
    for batch in batches:
        metric.update(outputs, batch)
    whole, state = metric.result(), []
    for share in (batches[:1], batches[1:]):
        metric.reset()
        for batch in share:
            metric.update(outputs, batch)
        state.append(metric.state())
    metric.merge(state)
    assert metric.result() == pytest.approx(whole)


def test_a_video_without_a_duration_stops_at_once(metric, tmp_path):
    with pytest.raises(DataError, match="no duration of the video 'v_99'"):
        metric.update(perfect(metric, [[1, 0.1, 0.4]]), {"video": ["v_99"], "actions": [[]]})
    (tmp_path / "bad.list").write_text("v_0 100 12.5\nv_1 100 long\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.list:2: expected 'video frames seconds'"):
        read_durations(str(tmp_path / "bad.list"))


# ---- tools -----------------------------------------------------------------------------------------


def test_the_made_up_set_is_the_same_every_time(tmp_path):
    flags = ["--num_train=3", "--num_val=2"]
    assert make_set.main([f"--out={tmp_path / 'a'}", *flags]) == 0
    assert make_set.main([f"--out={tmp_path / 'b'}", *flags]) == 0
    for file in sorted((tmp_path / "a").rglob("*.*")):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    videos = read_list(str(tmp_path / "a" / "train.listformat"), 5)
    assert len(videos) == 3 and all(len(video.classes) for video in videos)


def test_lists_from_an_annotation(tmp_path, capsys):
    np.save(tmp_path / "v_abc.npy", np.zeros((50, 3), np.float32))
    annotation = {
        "abc": {
            "duration": 100.0,
            "subset": "training",
            "annotations": [{"label": "run", "segment": [10, 60]}, {"label": "jump", "segment": [90, 200]}],
        },
        "gone": {"duration": 10.0, "subset": "training", "annotations": []},
        "val": {"duration": 10.0, "subset": "validation", "annotations": []},
    }
    (tmp_path / "truth.json").write_text(json.dumps({"database": annotation}), encoding="utf-8")
    flags = [f"--annotations={tmp_path / 'truth.json'}", f"--feats={tmp_path}", f"--out={tmp_path / 'train'}"]
    assert make_lists.main([*flags, "--subset=training"]) == 1  # one has no features
    assert "gone" in capsys.readouterr().err
    assert (tmp_path / "labels.txt").read_text() == "jump\nrun\n"
    assert (tmp_path / "train.listformat").read_text() == "v_abc 50 2 2 5.00 30.00 1 45.00 50.00\n"
    assert (tmp_path / "train_durations.list").read_text() == "v_abc 50 100.0\n"
    with pytest.raises(ConfigError, match="subsets: training, validation"):
        make_lists.main([*flags, "--subset=testing"])
