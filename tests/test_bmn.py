"""BMN: the mask and the folded block against their definitions, losses, reader, from video to proposals."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import eval as eval_script
import predict
import train
import tsn_extractor
from benchmark import proposals as benchmark
from data.dataset.bmn import gen_infer_list
from models import ZOO
from models.bmn import BMN, BoundaryMatching, sample_mask
from models.common import proposals
from reader.bmn_reader import BMNReader
from reader.common import activitynet
from tests import synthetic
from tests.recipes import bmn as recipe
from tests.recipes import tsn as tsn_recipe
from utils import build, checkpoint, registry
from utils.config import load_yaml, resolve
from utils.errors import DataError

SPEC = registry.find("BMN", ZOO)


def network(**sizes) -> BMN:
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        return BMN(BMN.Config(**{"tscale": 12, "dscale": 10, "feat_dim": 8, "num_sample": 4, **sizes}))


# ---- the mask and the block -------------------------------------------------------------------------


@pytest.mark.parametrize(("tscale", "dscale", "ratio"), [(9, 9, 0.5), (7, 4, 0.25), (5, 8, 0.0)])
def test_the_mask_interpolates_the_points_of_each_window(tscale, dscale, ratio):
    num_sample, per_sample = 5, 2
    expected = np.zeros((tscale, num_sample, dscale, tscale))
    for d in range(dscale):
        for t in range(tscale - d):
            first, last = t - (d + 1) * ratio, t + d + (d + 1) * ratio
            for k, point in enumerate(np.linspace(first, last, num_sample * per_sample)):
                whole = math.trunc(point)
                for snippet, part in ((whole, 1 - (point - whole)), (math.ceil(point), point - whole)):
                    if 0 <= snippet < tscale:
                        expected[snippet, k // per_sample, d, t] += part / per_sample
    got = sample_mask(tscale, dscale, num_sample, per_sample, ratio)
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= 1e-6


@pytest.mark.parametrize(("dtype", "offset", "limit"), [("float32", 10.0, 1e-6), ("float64", 0.0, 1e-13)])
@pytest.mark.parametrize(
    "sizes", [{}, {"tscale": 24, "dscale": 24, "num_sample": 8}, {"dscale": 1}, {"tscale": 6, "dscale": 9}]
)
def test_the_folded_block_is_the_dense_one_forward_and_backward(sizes, dtype, offset, limit):
    """The dense form in float64, because in float32 its own sums are off by more than 1e-6.

    In float32 no ReLU is near its kink, where rounding decides about a whole gradient.
    """
    with paddle.utils.unique_name.guard():
        paddle.seed(1)
        block = BoundaryMatching(network(**sizes).config)
    for bias in (block.conv3d.bias, block.conv.bias):
        bias.set_value(0.3 * paddle.randn(bias.shape) + offset)
    folded = with_gradients(block, block.to(dtype=dtype), dtype)
    expected = with_gradients(block.to(dtype="float64"), lambda x: dense(block, x), "float64")
    assert block.mask.grad is None and len(folded) == 6
    for name, value in expected.items():
        assert folded[name].dtype == dtype and np.abs(value).max() > 0
        assert np.abs(folded[name] - value).max() <= limit * np.abs(value).max(), name


def with_gradients(block: BoundaryMatching, form, dtype: str) -> dict[str, np.ndarray]:
    paddle.seed(2)
    x = paddle.randn([2, 128, block.tscale]).astype(dtype)
    x.stop_gradient = False
    y = form(x)
    (y * paddle.randn(y.shape, "float32").astype(dtype)).sum().backward()
    gradients = {p.name: p.grad.numpy() for p in block.parameters() if p.trainable}
    block.clear_gradients()
    return {"output": y.numpy(), "input": x.grad.numpy(), **gradients}


def test_the_benchmark_compares_the_forms(capsys):
    flags = ["--tscale=8", "--num_sample=4", "--batch_size=1", "--runs=1", "--rounds=1"]
    assert benchmark.main(flags) == 0
    printed = capsys.readouterr().out
    assert len(re.findall(r"(?:dense|folded) .* ms (?:wall|CPU)", printed)) == 8
    assert len(re.findall(r"memory of a step .* MB above", printed)) == 2
    errors = [float(value) for value in re.findall(r"differs by (\S+) of its scale", printed)]
    assert len(errors) == 6 and max(errors) < 1e-5


def dense(block: BoundaryMatching, x: paddle.Tensor) -> paddle.Tensor:
    """The layers of the paper one after the other: every sample of every window, ``(B, 128, S, D, T)``."""
    samples = paddle.matmul(x, block.mask)
    samples = samples.reshape([x.shape[0], 128, block.num_sample, block.dscale, block.tscale])
    windows = F.relu(block.conv3d(samples).squeeze(2))
    return F.relu(block.conv(windows))


def test_published_weights_come_with_the_mask_or_without(tmp_path):
    trained = network()
    own = checkpoint.network_state(trained)
    assert own["sample_mask"].shape == (12, 4 * 10 * 12) and trained.matching.mask.stop_gradient
    created = {**own, "sample_mask": own["sample_mask"].reshape(12, 4, 10, 12)}
    another = {**own, "sample_mask": 2.0 * own["sample_mask"]}
    without = {name: value for name, value in own.items() if name != "sample_mask"}
    for state, mask in ((own, 1.0), (created, 1.0), (without, 1.0), (another, 2.0)):
        checkpoint.save([tmp_path / "BMN"], state, None, {})
        loaded = network()
        checkpoint.load_weights(loaded, str(tmp_path / "BMN"))
        assert np.array_equal(loaded.matching.mask.numpy(), mask * own["sample_mask"])
    # Another grid and other features: everything else is taken over.
    wider = network(tscale=16, dscale=16, feat_dim=12)
    mask = wider.matching.mask.numpy()
    checkpoint.save([tmp_path / "BMN"], own, None, {})
    report = checkpoint.load_pretrained(wider, str(tmp_path / "BMN"))
    assert set(report.missing) == {"sample_mask", "Base_1.w_0"}
    assert np.array_equal(wider.matching.mask.numpy(), mask)


# ---- losses -----------------------------------------------------------------------------------------


def losses(iou: np.ndarray, starts: np.ndarray, training: bool = True) -> dict[str, float]:
    """Of outputs that are 0.3 everywhere, and their gradients, which must be finite."""
    net = network()
    net.train() if training else net.eval()
    paddle.seed(0)
    values = {"pred_bm": (2, 2, 10, 12), "pred_start": (2, 12), "pred_end": (2, 12)}
    outputs = {name: paddle.full(shape, 0.3) for name, shape in values.items()}
    for value in outputs.values():
        value.stop_gradient = False
    batch = {"gt_iou_map": iou, "gt_start": starts, "gt_end": starts}
    found = net.loss(outputs, {name: paddle.to_tensor(v.astype(np.float32)) for name, v in batch.items()})
    found["loss"].backward()
    assert all(np.isfinite(value.grad.numpy()).all() for value in outputs.values())
    return {name: float(value) for name, value in found.items()}


def test_losses_without_a_positive_are_finite_and_say_what_there_is():
    nothing = losses(np.zeros((2, 10, 12)), np.zeros((2, 12)))
    negative = -0.5 * math.log(0.7 + 1e-6)  # the negatives' half alone
    assert nothing["pem_reg_loss"] == 0.0
    assert nothing["pem_cls_loss"] == pytest.approx(negative, rel=1e-5)
    assert nothing["tem_loss"] == pytest.approx(2 * negative, rel=1e-5)
    assert nothing["loss"] == pytest.approx(3 * negative, rel=1e-5)
    everything = losses(np.ones((2, 10, 12)), np.ones((2, 12)))
    positive = -0.5 * math.log(0.3 + 1e-6)
    assert everything["tem_loss"] == pytest.approx(2 * positive, rel=1e-5)
    assert everything["pem_cls_loss"] == pytest.approx(positive, rel=1e-5)
    assert math.isfinite(everything["pem_reg_loss"])


@pytest.mark.parametrize(
    "present", [(0.8,), (0.5,), (0.8, 0.1), (0.8, 0.5), (0.5, 0.1), (0.95, 0.8, 0.5, 0.1)]
)
def test_losses_are_finite_whatever_tier_of_iou_is_empty(present):
    iou = np.zeros((2, 10, 12)) + present[-1]
    for i, value in enumerate(present[:-1]):
        iou[:, i] = value
    found = losses(iou, np.zeros((2, 12)))
    assert all(math.isfinite(value) for value in found.values())
    if 0.8 not in present:  # nothing of high IoU to compare with: nothing is drawn (2019: NaN)
        assert found["pem_reg_loss"] == 0.0


def test_the_regression_draws_as_many_windows_of_each_tier_as_there_are_of_high_iou():
    rng = np.random.default_rng(0)
    iou = rng.choice([0.1, 0.5, 0.8], (2, 40, 50), p=[0.7, 0.2, 0.1]).astype(np.float32)
    counted = np.ones_like(iou)
    high, middle, low = proposals.iou_tiers(paddle.to_tensor(iou), paddle.to_tensor(counted))
    num_high = float(high.sum())
    paddle.seed(0)
    for tier in (middle, low):
        drawn = proposals.sampled(tier, proposals.draws([40, 50], True), high.sum(), tier.sum())
        assert not (drawn * (1 - tier)).any()
        assert float(drawn.sum()) == pytest.approx(num_high, rel=0.15)


def test_outside_training_the_loss_draws_nothing():
    rng = np.random.default_rng(0)
    iou, starts = rng.uniform(0, 1, (2, 10, 12)), rng.uniform(0, 1, (2, 12))
    assert losses(iou, starts, training=False) == losses(iou, starts, training=False)
    state = paddle.get_rng_state()[0].current_seed()
    proposals.draws([3, 4], False)
    assert paddle.get_rng_state()[0].current_seed() == state
    assert np.array_equal(proposals.draws([3, 4], False).numpy(), proposals.draws([3, 4], False).numpy())


# ---- reader -----------------------------------------------------------------------------------------


def reader_of(folder: Path, mode: str = "VALID", **keys) -> BMNReader:
    path = folder / "tiny.yaml"
    sections = load_yaml(path if path.is_file() else recipe.tiny(folder))
    for name, value in keys.items():
        sections[mode if name in ("subset", "filelist", "video_path") else "MODEL"][name] = value
    return build.reader(SPEC, sections, mode, "tiny.yaml")


def test_targets_of_a_video(tmp_path):
    sample = reader_of(tmp_path)[0]
    assert sample["video"] == "v_08" and sample["duration_second"] == 38.0
    # Actions are steps 3-8 and 9.5-11: both windows that are whole steps have an IoU of 1.
    assert sample["gt_iou_map"].shape == (10, 12) and sample["gt_iou_map"].dtype == np.float32
    assert sample["gt_iou_map"][4, 3] == pytest.approx(1.0)  # steps 3 to 8
    assert sample["gt_iou_map"][1, 9] == pytest.approx(0.75)  # 9 to 11
    assert np.unravel_index(sample["gt_iou_map"].argmax(), (10, 12)) == (4, 3)
    # A region of three steps around 3 and around 9.5.
    expected = [0, 0.5, 1, 1, 0.5, 0, 0, 0, 1, 1, 1, 0]
    assert np.allclose(sample["gt_start"], expected, atol=1e-6)
    assert [one["label"] for one in sample["annotations"]] == ["moving", "moving"]


def test_a_video_without_actions_is_a_sample_too(tmp_path):
    reader = reader_of(tmp_path)
    sample = next(reader[i] for i in range(len(reader)) if reader.describe(i) == "v_10")
    assert not any(sample[name].any() for name in SPEC.targets) and sample["annotations"] == []


def test_subsets_are_parts_of_a_name_and_both(tmp_path):
    names = [reader_of(tmp_path, subset=subset).describe(0) for subset in ("train", "validation")]
    assert names == ["v_00", "v_08"]
    assert len(reader_of(tmp_path, subset="train_val")) == 15
    with pytest.raises(DataError, match="no video of the subset 'testing'; subsets: training, validation"):
        reader_of(tmp_path, subset="testing")


def test_features_of_other_forms(tmp_path):
    reader = reader_of(tmp_path)
    expected = reader[0]["feat"]
    npy = tmp_path / "features" / "v_08.npy"
    rows = np.load(npy)
    npy.unlink()
    for head in ("", ",".join(f"f{i}" for i in range(8)) + "\n"):
        body = "\n".join(",".join(f"{value:.9g}" for value in row) for row in rows)
        (tmp_path / "features" / "v_08.csv").write_text(head + body, encoding="utf-8")
        assert np.array_equal(reader[0]["feat"], expected)
    np.save(npy, rows.astype(np.float64))
    assert np.array_equal(reader[0]["feat"], expected) and reader[0]["feat"].dtype == np.float32
    np.save(npy, rows.repeat(3, axis=0))
    with pytest.raises(
        DataError, match=r"v_08.npy: got features float32 \(36, 8\), expected \(12, 8\).*rescale"
    ):
        reader[0]
    config = resolve(BMNReader.Config, load_yaml(tmp_path / "tiny.yaml"), "VALID", "tiny.yaml")
    rescaled = BMNReader(config.model_copy(update={"rescale": True}), "VALID")[0]["feat"]
    assert np.allclose(rescaled, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((8, 12)), r"got features float64 \(8, 12\), expected \(12, 8\).*axes swapped"),
        (np.zeros((12, 9)), r"got features float64 \(12, 9\), expected \(12, 8\)"),
        (np.zeros(12), r"got features float64 \(12,\)"),
        (np.zeros((0, 8)), r"got features float64 \(0, 8\)"),
        (np.full((12, 8), np.nan), "not finite"),
        (np.full((12, 8), "x"), r"got features <U1"),
    ],
)
def test_features_of_a_wrong_form_are_named(tmp_path, values, message):
    reader = reader_of(tmp_path)
    np.save(tmp_path / "features" / "v_08.npy", values)
    with pytest.raises(DataError, match=f"v_08.npy: .*{message}"):
        reader[0]


def test_what_cannot_be_read_is_named(tmp_path):
    reader = reader_of(tmp_path)
    (tmp_path / "features" / "v_08.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"v_08.npy: cannot read the features"):
        reader[0]
    (tmp_path / "features" / "v_08.npy").unlink()
    with pytest.raises(DataError, match=r"v_08.npy: no such features of v_08 .*annotations.json"):
        reader[0]
    with pytest.raises(DataError, match="no such folder of features"):
        reader_of(tmp_path, feat_path=str(tmp_path / "nowhere"))
    for content, message in (
        ("{", "not a JSON"),
        ("[]", "expected a JSON object of videos"),
        ('{"v_1": {"subset": "validation"}}', "v_1: expected a duration_second above 0, got None"),
        ('{"v_1": {"duration_second": 3, "subset": "validation", "annotations": [{}]}}', "v_1: expected ann"),
        ('{"v_1": {"duration_second": 3}}', 'have no "subset"'),
    ):
        file = tmp_path / "bad.json"
        file.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=f"bad.json: .*{message}"):
            reader_of(tmp_path, anno_file=str(file))


def test_lists_of_videos_to_predict(tmp_path, caplog):
    reader = reader_of(tmp_path, "INFER")  # 2019's JSON
    assert [reader.describe(i) for i in range(len(reader))] == [f"v_{i:02d}" for i in range(8, 15)]
    assert not set(SPEC.targets) & set(reader[0]) and len(reader[0]["annotations"]) == 2
    plain = tmp_path / "plain.list"
    plain.write_text("v_12\n\nfeatures/v_09.npy\n", encoding="utf-8")
    reader = reader_of(tmp_path, "INFER", filelist=str(plain))
    assert [(s["video"], s["duration_second"]) for s in (reader[0], reader[1])] == [
        ("v_12", 42),
        ("v_09", 39),
    ]
    assert "fractions of a video" not in caplog.text
    reader = reader_of(tmp_path, "INFER", filelist=str(plain), anno_file=str(tmp_path / "none.json"))
    assert reader[0]["duration_second"] is None and "fractions of a video" in caplog.text
    plain.write_text("v_12\nv_12\n", encoding="utf-8")
    with pytest.raises(DataError, match="listed more than once, among them v_12"):
        reader_of(tmp_path, "INFER", filelist=str(plain))


def test_the_tool_lists_videos_that_have_features(tmp_path, capsys):
    reader_of(tmp_path)
    (tmp_path / "features" / "v_09.npy").unlink()
    out = tmp_path / "made.list"
    argv = [f"--annotations={tmp_path / 'annotations.json'}", f"--out={out}", "--subset=validation"]
    assert gen_infer_list.main([*argv, f"--features={tmp_path / 'features'}"]) == 0
    assert "6 videos, 1 left out without features" in capsys.readouterr().out
    reader = reader_of(tmp_path, "INFER", filelist=str(out))
    assert [reader.describe(i) for i in range(2)] == ["v_08", "v_10"] and reader[0]["annotations"]
    assert gen_infer_list.main(argv) == 0
    assert len(reader_of(tmp_path, "INFER", filelist=str(out))) == 7
    with pytest.raises(DataError, match="no features of a video of the subset 'validation'"):
        gen_infer_list.main([*argv, f"--features={tmp_path}"])


def test_feature_files_by_path(tmp_path):
    reader = reader_of(tmp_path, "INFER", video_path=str(tmp_path / "features"))
    assert len(reader) == 15 and reader[14]["duration_second"] == 44.0
    one = str(tmp_path / "features" / "v_03.npy")
    reader = reader_of(tmp_path, "INFER", video_path=one, feat_path="nowhere")
    assert len(reader) == 1 and reader[0]["video"] == "v_03"


# ---- from video to proposals ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with ``tiny.yaml``, its data, and the weights ``BMN`` that one epoch gave."""
    folder = tmp_path_factory.mktemp("bmn")
    path = recipe.tiny(folder, TRAIN={"epoch": 1})
    argv = [f"--config={path}", f"--save_dir={folder}", "--use_gpu=False", "--pretrain=none"]
    assert train.main(argv) == 0
    return folder


def prediction(trained: Path, out: Path, *flags: str) -> list[dict]:
    argv = [f"--config={trained / 'tiny.yaml'}", f"--weights={trained / 'BMN'}", "--use_gpu=False"]
    assert predict.main([*argv, f"--save_dir={out}", *flags]) == 0
    return json.loads((out / "BMN_infer_result.json").read_text(encoding="utf-8"))["results"]


def test_proposals_do_not_depend_on_the_batch(trained, tmp_path):
    """2019 could evaluate a batch of one only."""
    found = []
    for size in (1, 3):
        out = tmp_path / str(size)
        argv = [f"--config={trained / 'tiny.yaml'}", f"--weights={trained / 'BMN'}", "--use_gpu=False"]
        assert eval_script.main([*argv, f"--save_dir={out}", f"--batch_size={size}"]) == 0
        report = json.loads((out / "BMN_eval_result.json").read_text(encoding="utf-8"))
        results = json.loads((out / "bmn_results_validation.json").read_text(encoding="utf-8"))["results"]
        found.append((report["num_samples"], report["result"], results))
    (number, scores, first), (same, of_batches, second) = found
    assert number == same == 7 and list(first) == list(second)
    for name in ("AUC", "AR@1", "AR@5", "AR@10", "AR@100"):
        assert scores[name] == pytest.approx(of_batches[name])
    for video, rows in first.items():
        assert np.allclose([p["score"] for p in rows], [p["score"] for p in second[video]], rtol=1e-4)


def test_a_features_file_of_unknown_duration_gets_proposals_in_fractions(trained, tmp_path):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((12, 8)))
    (record,) = prediction(trained, tmp_path / "out", f"--video_path={tmp_path / 'mine.npy'}", "--visualize")
    assert record["video"] == "mine" and record["duration_second"] is None and record["proposals"]
    assert all(0 <= start < end <= 1 for start, end in (one["segment"] for one in record["proposals"]))
    assert (tmp_path / "out" / record["picture"]).is_file()
    assert (tmp_path / "out" / "bmn_results_test.json").is_file()


def test_features_of_any_length_are_rescaled_on_demand(trained, tmp_path):
    np.save(tmp_path / "long.npy", np.random.default_rng(0).standard_normal((31, 8)))
    flags = [f"--video_path={tmp_path / 'long.npy'}", "-o", "MODEL.rescale=True"]
    assert prediction(trained, tmp_path / "out", *flags)[0]["proposals"]


def test_from_video_to_proposals(tmp_path):
    """Extractor and predictor, nothing between them but the folder of features."""
    tsn = tmp_path / "tsn"
    tsn.mkdir()
    tsn_yaml = tsn_recipe.tiny(tsn)
    state = checkpoint.network_state(
        build.network(registry.find("TSN", ZOO), load_yaml(tsn_yaml), "INFER", str(tsn_yaml))
    )
    checkpoint.save([tsn / "TSN"], state, None, {})
    videos = tmp_path / "videos"
    videos.mkdir()
    for name, num_frames in (("short", 30), ("long", 75)):
        synthetic.write_video(videos / f"{name}.mp4", synthetic.frames(num_frames))
    flags = [f"--config={tsn_yaml}", f"--weights={tsn / 'TSN'}", f"--video_path={videos}", "--tscale=12"]
    assert tsn_extractor.main([*flags, f"--save_dir={tmp_path / 'features'}", "--use_gpu=False"]) == 0

    bmn = tmp_path / "bmn"
    bmn.mkdir()
    path = recipe.tiny(bmn, MODEL={"feat_dim": 512})
    checkpoint.save([bmn / "BMN"], checkpoint.network_state(network(feat_dim=512)), None, {})
    argv = [f"--config={path}", f"--weights={bmn / 'BMN'}", f"--save_dir={tmp_path / 'out'}"]
    assert predict.main([*argv, "--use_gpu=False", f"--video_path={tmp_path / 'features'}"]) == 0
    results = json.loads((tmp_path / "out" / "bmn_results_test.json").read_text(encoding="utf-8"))["results"]
    records = json.loads((tmp_path / "out" / "BMN_infer_result.json").read_text(encoding="utf-8"))["results"]
    assert set(results) == {"short", "long"}
    seconds = {record["video"]: record["duration_second"] for record in records}
    assert seconds["long"] == pytest.approx(2.5 * seconds["short"], rel=0.05) and seconds["short"] > 0.5
    for name, rows in results.items():
        ends = [one["segment"][1] for one in rows]
        assert rows and 0.5 * seconds[name] < max(ends) <= seconds[name] + 1e-6

    # What is extracted later is added to what is known.
    synthetic.write_video(tmp_path / "third.mp4", synthetic.frames(20))
    flags[2] = f"--video_path={tmp_path / 'third.mp4'}"
    assert tsn_extractor.main([*flags, f"--save_dir={tmp_path / 'features'}", "--use_gpu=False"]) == 0
    known = activitynet.read_list(str(tmp_path / "features" / "videos.json"))
    assert [video.name for video in known] == ["long", "short", "third"]
