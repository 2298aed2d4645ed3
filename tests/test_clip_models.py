"""Parts of TSM and StNet that recorded numbers do not show by themselves."""

from __future__ import annotations

import random

import numpy as np
import paddle
import pytest
from PIL import Image

from models.common.classification import Solver
from models.common.resnet import temporal_shift
from models.stnet import STNET
from models.tsm import TSM
from reader.common import sampling, transforms
from reader.kinetics_reader import KineticsReader, MultiScaleKineticsReader


@pytest.mark.parametrize("segments", [1, 2, 5])
def test_the_shift_moves_an_eighth_each_way_within_a_video(segments):
    x = np.random.default_rng(0).standard_normal((2, segments, 16, 3, 2)).astype(np.float32)
    expected = np.zeros_like(x)
    for t in range(segments):
        if t > 0:
            expected[:, t, :2] = x[:, t - 1, :2]
        if t + 1 < segments:
            expected[:, t, 2:4] = x[:, t + 1, 2:4]
        expected[:, t, 4:] = x[:, t, 4:]
    shifted = temporal_shift(paddle.to_tensor(x.reshape(-1, 16, 3, 2)), segments)
    assert np.array_equal(shifted.numpy().reshape(x.shape), expected)


def test_tsm_tells_a_clip_from_its_reverse():
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        network = TSM(TSM.Config(num_classes=3, num_layers=18))
    network.eval()
    clip = paddle.randn([1, 4, 3, 32, 32])
    with paddle.no_grad():
        there, back = network(clip)["logits"], network(clip.flip(1))["logits"]
    assert float((there - back).abs().max()) > 1e-3 * float(there.abs().max())


def test_a_first_layer_for_images_is_spread_over_the_stack():
    with paddle.utils.unique_name.guard():
        network = STNET(STNET.Config(num_layers=18, seglen=2))
    images = np.random.default_rng(0).standard_normal((64, 3, 7, 7)).astype(np.float32)
    fc = {"fc_0.w_0": np.zeros(1)}
    state = network.adapt_pretrained({"conv1_weights": images, **fc})
    assert list(state) == ["conv1_weights"]
    assert state["conv1_weights"].shape == (64, 6, 7, 7)
    for channel in range(6):
        assert np.allclose(state["conv1_weights"][:, channel], images.mean(axis=1) / 2)
    own = np.zeros((64, 6, 7, 7), np.float32)
    assert network.adapt_pretrained({"conv1_weights": own})["conv1_weights"] is own


def test_the_rate_drops_after_the_given_epochs():
    parameter = paddle.create_parameter([1], "float32")
    common = {"total_videos": 7, "epoch": 9, "batch_size": 4, "learning_rate": 1.0}
    assert Solver(**common, decay_epochs=[]).build([parameter]).get_lr() == 1.0
    for given, boundaries in ((None, [6.0, 12.0]), ([4], [8])):
        schedule = Solver(**common, decay_epochs=given).build([parameter])._learning_rate
        assert list(schedule.boundaries) == boundaries
        assert schedule.values == pytest.approx([0.1**i for i in range(len(boundaries) + 1)])


def test_the_multi_scale_crop_keeps_one_window_for_the_clip():
    ground = np.random.default_rng(0).integers(0, 255, (40, 53, 3), dtype=np.uint8)
    images = [Image.fromarray(ground), Image.fromarray(255 - ground)]
    seen = set()
    for seed in range(60):
        first, second = transforms.multi_scale_crop(images, 40, random.Random(seed))
        assert first.size == second.size == (40, 40)
        both = np.asarray(first, int) + np.asarray(second, int)
        assert np.abs(both - 255).max() <= 2, "one was cut elsewhere"
        seen.add(first.tobytes())
    assert len(seen) > 30
    again = transforms.multi_scale_crop(images, 40, random.Random(0))
    assert again == transforms.multi_scale_crop(images, 40, random.Random(0))


def test_the_multi_scale_crop_is_a_key_whose_default_is_the_models():
    assert not KineticsReader.Config(seg_num=1).multi_scale_crop
    assert MultiScaleKineticsReader.Config(seg_num=1).multi_scale_crop


@pytest.mark.parametrize(("centre_one_frame", "expected"), [(True, [0, 4]), (False, [0, 4])])
def test_a_part_shorter_than_the_segment_begins_at_its_first_frame(centre_one_frame, expected):
    assert sampling.segment_starts(9, 2, 5, centre_one_frame=centre_one_frame) == expected
    assert sampling.segment_starts(9, 2, 5, random.Random(0)) == expected
