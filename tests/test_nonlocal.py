"""Non-local: its network, clips of videos, scores over clips, and the tool that lists them."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

import eval as eval_script
import predict
from metrics.multicrop import MultiCropAccuracy
from models import ZOO
from models.nonlocal_net import Conv, NonLocal, NonLocalBlock, NonLocalConfig, Solver, pool_time
from reader.common import decode
from reader.nonlocal_reader import NonLocalReader, resize
from tests.conftest import ROOT
from tests.recipes import nonlocal_net as recipe
from utils import build, checkpoint
from utils.config import load_yaml
from utils.errors import ConfigError, DataError
from utils.registry import find

THIN = {"width_per_group": 8, "num_classes": 4, "layer_mod": 4, "bn_init_gamma": 0.1}
SPEC = find("NONLOCAL", ZOO)


def network(**keys) -> NonLocal:
    with paddle.utils.unique_name.guard():
        paddle.seed(0)
        net = NonLocal(NonLocalConfig(**{**THIN, **keys}))
    net.eval()
    return net


def clips(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


# ---- network -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("c_in", "c_out"), [(3, 8), (8, 3)])  # stacked inputs, stacked outputs
@pytest.mark.parametrize("frames", [1, 2, 6])
@pytest.mark.parametrize("kernel_t", [1, 3, 5])
def test_a_convolution_is_that_in_three_dimensions(c_in, c_out, frames, kernel_t):
    with paddle.utils.unique_name.guard():
        conv = Conv(c_in, c_out, "w", paddle.nn.initializer.Normal(), 3, 2, kernel_t)
    x = clips(2, c_in, frames, 9, 7)
    expected = F.conv3d(x, conv.weight, stride=(1, 2, 2), padding=(kernel_t // 2, 1, 1))
    got = conv(x.transpose([0, 2, 1, 3, 4]).flatten(0, 1), frames)
    got = got.reshape([2, frames, *got.shape[1:]]).transpose([0, 2, 1, 3, 4])
    assert np.allclose(got.numpy(), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("use_softmax", [True, False])
def test_a_block_is_the_mean_over_all_positions(use_softmax):
    keys = {"use_bn": False, "use_softmax": use_softmax, "use_maxpool": False, "conv_init_std": 0.5}
    with paddle.utils.unique_name.guard():
        block = NonLocalBlock(NonLocalConfig(**keys), 6, "block")
    frames, x = 2, clips(6, 6, 3, 4)  # three clips
    got = block(x, frames).numpy()
    flat = x.numpy().reshape(3, frames, 6, 12).transpose(0, 1, 3, 2).reshape(3, 24, 6)  # (N, P, C)
    theta, phi, g, out = (
        getattr(block, part).weight.numpy()[:, :, 0, 0, 0] for part in ("theta", "phi", "g", "out")
    )
    for n in range(3):
        scores = (flat[n] @ theta.T) @ (flat[n] @ phi.T).T
        if use_softmax:
            scores = np.exp(scores * 3**-0.5)
            weights = scores / scores.sum(1, keepdims=True)
        else:
            weights = scores / 24
        expected = flat[n] + weights @ (flat[n] @ g.T) @ out.T
        ours = got.reshape(3, frames, 6, 12).transpose(0, 1, 3, 2).reshape(3, 24, 6)[n]
        assert np.allclose(ours, expected, atol=1e-4)


def test_grouped_blocks_see_four_frames_at_a_time():
    with paddle.utils.unique_name.guard():
        block = NonLocalBlock(NonLocalConfig(use_bn=False, conv_init_std=0.5), 6, "b", group_frames=4)
    x = clips(8, 6, 4, 4)
    apart = paddle.concat([block(x[:4], 4), block(x[4:], 4)])
    assert np.allclose(block(x, 8).numpy(), apart.numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match="video_length 12 must be a multiple of 8"):
        block(x[:6], 6)


def test_time_is_halved_by_the_larger_frame():
    x, frames = pool_time(clips(2 * 5, 3, 2, 2), 5)
    assert frames == 2
    expected = clips(2, 5, 3, 2, 2).numpy()[:, :4].reshape(2, 2, 2, 3, 2, 2).max(2).reshape(4, 3, 2, 2)
    assert np.array_equal(x.numpy(), expected)


def test_both_forms_of_the_head_load_from_one_checkpoint(tmp_path):
    net = network()
    state = checkpoint.network_state(net)
    assert state["pred_w"].shape == (2048, 4)
    convolution = np.ascontiguousarray(state["pred_w"].T).reshape(4, 2048, 1, 1, 1)
    checkpoint.save([tmp_path / "fc"], state, None, {})
    checkpoint.save([tmp_path / "conv"], {**state, "pred_w": convolution}, None, {})
    image = clips(1, 3, 4, 64, 64)
    expected = net(image)["probability"].numpy()
    for form in ("fc", "conv"):
        other = network(fc_init_std=1.0)
        checkpoint.load_weights(other, str(tmp_path / form))
        assert np.array_equal(other(image)["probability"].numpy(), expected), form


def test_a_larger_crop_is_classified_at_each_place():
    net = network()
    features = net.forward_features(clips(1, 3, 2, 256, 256))
    assert features.shape == [1, 2048, 2, 2]
    outputs = net(clips(1, 3, 2, 256, 256))
    logits = features.numpy()[0].reshape(2048, 4).T @ net.pred_w.numpy() + net.pred_b.numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.allclose(outputs["probability"].numpy()[0], expected.mean(0), atol=1e-6)
    assert np.allclose(outputs["log_probability"].numpy()[0], np.log(expected.mean(0)), atol=1e-5)
    label = paddle.to_tensor([[3]])
    loss = net.loss(outputs, {"label": label})["loss"]
    assert float(loss) == pytest.approx(-np.log(expected.mean(0)[3]), rel=1e-5)


def test_weights_of_images_are_inflated_and_the_classifier_left_out():
    net = network(video_arc_choice=2)
    kernel = np.random.default_rng(0).standard_normal((64, 3, 7, 7)).astype(np.float32)
    adapted = net.adapt_pretrained({"conv1_weights": kernel, "pred_w": np.ones((2048, 4)), "pred_b": kernel})
    assert list(adapted) == ["conv1_weights"]
    assert adapted["conv1_weights"].shape == (64, 3, 5, 7, 7)
    assert np.allclose(adapted["conv1_weights"].sum(2), kernel, atol=1e-6)


def test_depth_and_architecture_must_agree():
    with pytest.raises(ConfigError, match=r"video_arc_choice 3 is a ResNet-101, but MODEL\.depth is 50"):
        network(video_arc_choice=3)


def test_batch_norm_has_its_own_weight_decay():
    solver = Solver(learning_rate=0.1, weight_decay=0.5, nesterov=True, step_sizes=[2, 3, 1])
    for decay in (0.0, 0.5):
        net = network(weight_decay_bn=decay)
        updates = solver.build(net.parameters())
        (net(clips(1, 3, 2, 48, 48))["probability"].sum() * 0).backward()  # the decay alone moves them
        updates.step()
        scale = {p.name: p for p in net.parameters()}["bn_conv1_scale"].numpy()
        assert np.allclose(scale, 1 - 0.1 * (1 + 0.9) * decay)
    rates = []
    for _ in range(7):
        rates.append(updates.get_lr())
        updates._learning_rate.step()
    assert np.allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.0001])


# ---- reader ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    recipe.tiny(folder)
    return folder


def reader(mode: str, **keys) -> NonLocalReader:
    small = {"crop_size": 40, "sample_rate": 2, "video_length": 4, "jitter_scales": [40, 48]}
    return NonLocalReader(NonLocalReader.Config(**{"num_classes": 4, **small, **keys}), mode)


def test_validation_is_the_same_every_time_and_in_the_middle(videos):
    listed = str(videos / "odd.list")
    first = reader("VALID", filelist=listed)
    second = reader("VALID", filelist=listed)
    second.set_epoch(5)
    assert all(np.array_equal(first[i]["image"], second[i]["image"]) for i in range(7))
    middle = decode.video_frames(first[0]["video"], lambda n: [2, 4, 6, 8])  # of 12 frames
    pixels = np.stack([resize(np.asarray(frame), 40)[:, 6:46] for frame in middle]).transpose(3, 0, 1, 2)
    assert np.allclose(first[0]["image"], (pixels - 114.75) / 57.375, atol=1e-5)


def test_random_validation_when_asked_for(videos):
    listed = str(videos / "odd.list")
    random = reader("VALID", filelist=listed, random_clips=True)
    central = reader("VALID", filelist=listed)
    assert any(not np.array_equal(random[i]["image"], central[i]["image"]) for i in range(7))


def test_training_draws_depend_on_epoch_and_index_alone(videos):
    one, two = (reader("TRAIN", filelist=str(videos / "odd.list")) for _ in range(2))
    [one[i] for i in range(3)]
    assert np.array_equal(one[3]["image"], two[3]["image"])
    two.set_epoch(1)
    assert any(not np.array_equal(one[i]["image"], two[i]["image"]) for i in range(7))


def test_a_video_is_decoded_once_for_its_clips(videos, monkeypatch):
    calls, plain = [], decode.video_frames
    monkeypatch.setattr(decode, "video_frames", lambda path, *args: calls.append(path) or plain(path, *args))
    samples = reader("TEST", filelist=str(videos / "clips.list"), num_test_clips=3)
    assert len([samples[i] for i in range(len(samples))]) == 21 and len(calls) == 7
    assert [int(samples[i]["clip"][0]) for i in range(4)] == [0, 1, 2, 0]
    assert [int(samples[i]["video_index"][0]) for i in range(4)] == [0, 0, 0, 1]


def test_crops_lie_along_the_longer_side_and_the_second_three_are_mirrored(videos):
    path = str(videos / "clip 0.mp4")
    samples = reader("INFER", video_path=path, num_test_clips=12, use_multi_crop=2)
    assert len(samples) == 12  # two starts
    images = [samples[i]["image"] for i in range(6)]
    wide = reader("INFER", video_path=path, num_test_clips=1, use_multi_crop=0, crop_size=40)[0]["image"]
    assert np.array_equal(images[1], wide)  # the middle one is the centre
    for i in range(3):
        assert np.array_equal(images[i + 3], images[i][..., ::-1])
    assert np.array_equal(images[0][..., 6:], images[1][..., :-6])  # 53 px wide: 0, 6 and 12 px to the right


@pytest.mark.parametrize("lines", ["{0}\n{1}\n", "{0} 3\n{1} 1\n"])
def test_a_plain_list_is_cut_into_clips_for_prediction(videos, tmp_path, lines):
    paths = [str(videos / f"clip {i}.mp4") for i in range(2)]
    (tmp_path / "plain.list").write_text(lines.format(*paths))
    samples = reader("INFER", filelist=str(tmp_path / "plain.list"), num_test_clips=6)
    assert [samples.describe(i) for i in range(12)] == [paths[0]] * 6 + [paths[1]] * 6


@pytest.mark.parametrize(
    ("line", "message"),
    [("a.mp4 1", "expected 'path index start crop'"), ("a.mp4 0 0 3", "crop 3: out of range")],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    (tmp_path / "bad.list").write_text(f"a.mp4 0 0 0\n{line}\n")
    with pytest.raises(DataError, match=rf"bad.list:2: .*{message}"):
        reader("TEST", filelist=str(tmp_path / "bad.list"))


def test_a_crop_that_does_not_fit_is_a_message(videos):
    with pytest.raises(DataError, match="a crop of 41 x 41 does not fit a frame of 53 x 40"):
        reader("VALID", filelist=str(videos / "odd.list"), crop_size=41)[0]


# ---- scores ------------------------------------------------------------------------------------


def scored(tmp_path: Path, labels: str = "a b.mp4 0\nc.mp4 1\nd.mp4 2\n", **keys) -> MultiCropAccuracy:
    (tmp_path / "gt.txt").write_text(labels)
    values = {"num_classes": 4, "num_test_clips": 2, "filename_gt": str(tmp_path / "gt.txt"), **keys}
    return MultiCropAccuracy(MultiCropAccuracy.Config(**values))


def batch_of(videos: list[int], numbers: list[int], best: list[int]) -> tuple[dict, dict]:
    probability = np.full((len(best), 4), 0.1, np.float32)
    probability[np.arange(len(best)), best] = 0.7
    rows = {"video_index": np.array(videos)[:, None], "clip": np.array(numbers)[:, None]}
    return {"probability": probability}, rows


def test_clips_are_summed_by_video_and_missing_videos_are_named(tmp_path):
    metric = scored(tmp_path)
    metric.update(*batch_of([0, 1, 1], [0, 1, 0], [0, 3, 1]))
    result = metric.result()
    assert result["clip_acc"] == pytest.approx(200 / 3) and result["clip1_acc"] == 100.0
    assert result["top5_acc"] == 100.0
    assert metric.result_with_failures(1)["top5_acc"] == pytest.approx(200 / 3)
    number, unscored = metric.per_video([])
    assert (number, [record["video"] for record in unscored]) == (3, ["d.mp4"])
    failed = [{"video": "d.mp4", "error": "d.mp4: damaged"}] * 2
    assert metric.per_video(failed)[1] == failed[:1]


def test_two_ranks_score_as_one(tmp_path):
    whole, parts = scored(tmp_path), [scored(tmp_path) for _ in range(2)]
    rows = list(zip([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1], [0, 3, 1, 1, 0, 2], strict=True))
    for i, row in enumerate(rows):
        for metric in (whole, parts[i % 2]):
            metric.update(*batch_of(*([value] for value in row)))
    merged = scored(tmp_path)
    merged.merge([part.state() for part in parts])
    assert merged.result() == whole.result() and merged.num_clips_of == whole.num_clips_of
    assert merged.running() == whole.running()


def test_lists_that_do_not_fit_are_messages(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset_size is 5, but .* has 3 videos"):
        scored(tmp_path, dataset_size=5)
    with pytest.raises(ConfigError, match=r"gt\.txt:2: expected 'path label'"):
        scored(tmp_path, labels="a.mp4 1\nb.mp4\n")
    with pytest.raises(DataError, match="has a video 3, but there are 3"):
        scored(tmp_path).update(*batch_of([3], [0], [0]))


def test_a_broken_video_is_one_failure_in_eval_and_predict(tmp_path, capsys):
    path = recipe.tiny(tmp_path)
    net = build.network(SPEC, load_yaml(path), "TEST", str(path))
    checkpoint.save([tmp_path / "NONLOCAL"], checkpoint.network_state(net), None, {})
    broken = tmp_path / "clip 2.mp4"
    broken.write_bytes(b"garbage")
    argv = [f"--config={path}", f"--weights={tmp_path / 'NONLOCAL'}", f"--save_dir={tmp_path}"]
    assert eval_script.main(argv) == 1
    report = json.loads((tmp_path / "NONLOCAL_eval_result.json").read_text())
    assert (report["num_samples"], report["num_failed"]) == (7, 1)
    assert [record["video"] for record in report["failed"]] == [str(broken)]
    scored_only, all_of_them = report["result"], report["result_with_failures_counted_wrong"]
    assert all_of_them["top5_acc"] == pytest.approx(scored_only["top5_acc"] * 6 / 7)
    assert predict.main(argv) == 1
    records = json.loads((tmp_path / "NONLOCAL_infer_result.json").read_text())["results"]
    assert [record["video"] for record in records] == [str(tmp_path / f"clip {i}.mp4") for i in range(7)]
    assert ["error" in record for record in records] == [i == 2 for i in range(7)]
    assert set(records[0]) == {"video", "topk"} and len(records[0]["topk"]) == 2


# ---- list tool ---------------------------------------------------------------------------------


def test_the_tool_lists_clips_that_the_reader_reads(videos, tmp_path, capsys):
    tool = runpy.run_path(str(ROOT / "data" / "dataset" / "nonlocal" / "make_lists.py"))["main"]
    out = tmp_path / "testlist.txt"
    assert tool(["--list", str(videos / "odd.list"), "--out", str(out), "--starts=2"]) == 0
    samples = reader("TEST", filelist=str(out), num_test_clips=6)
    assert len(samples) == 7 * 6 and samples[41]["image"].shape == (3, 4, 40, 40)
    assert int(samples[41]["video_index"][0]) == 6
    said = capsys.readouterr().out
    assert "42 clips of 7 videos" in said and "TEST.dataset_size=7 TEST.num_test_clips=6" in said
