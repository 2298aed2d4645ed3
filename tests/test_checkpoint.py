"""Checkpoint files: what is read, what fits, what is written, and 2019's own."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import ParamAttr, nn

from utils import checkpoint, files, optimizer
from utils.errors import OutputError, WeightsError


class Small(nn.Layer):
    HEAD = ("fc.w",)

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 4, weight_attr=ParamAttr(name="a.w"), bias_attr=ParamAttr(name="a.b"))
        self.fc = nn.Linear(4, 2, weight_attr=ParamAttr(name="fc.w"), bias_attr=False)

    def forward(self, x):
        return self.fc(self.a(x))

    def adapt_pretrained(self, state):
        return {name: value for name, value in state.items() if name not in self.HEAD}


@pytest.fixture
def network():
    with paddle.utils.unique_name.guard():
        yield Small()


def write(path: Path, value: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


STATE = {
    "a.w": np.full((3, 4), 2, np.float32),
    "a.b": np.full(4, 3, np.float32),
    "fc.w": np.full((4, 2), 4, np.float32),
}


def test_weights_from_a_file_a_prefix_and_a_folder(tmp_path, network):
    write(tmp_path / "w.pdparams", STATE)
    folder = tmp_path / "variables"
    folder.mkdir()
    for name, value in STATE.items():
        dims = b"".join(b"\x10" + bytes([size]) for size in value.shape)
        about = b"\x08\x05" + dims
        header = struct.pack("<IQIi", 0, 0, 0, len(about))
        (folder / name).write_bytes(header + about + value.tobytes())
    for path in (tmp_path / "w.pdparams", tmp_path / "w", folder):
        assert str(checkpoint.load_weights(network, str(path))).endswith(
            "3 loaded, 0 skipped, 0 missing, 0 unused"
        )
        assert all(np.array_equal(p.numpy(), STATE[p.name]) for p in network.parameters())


def test_weights_that_paddle_saved_from_a_dygraph_network(tmp_path, network):
    """It stores structured names, and the table of parameter names beside them."""
    names = {"a.weight": "a.w", "a.bias": "a.b", "fc.weight": "fc.w"}
    state = {structured: STATE[name] for structured, name in names.items()}
    write(tmp_path / "w.pdparams", {**state, "StructuredToParameterName@@": names})
    assert len(checkpoint.load_weights(network, str(tmp_path / "w.pdparams")).loaded) == 3


def test_pretrained_weights_report_what_fits(tmp_path, network):
    state = {**STATE, "a.b": np.zeros(9, np.float32), "other": np.zeros(1, np.float32)}
    report = checkpoint.load_pretrained(network, str(write(tmp_path / "w.pdparams", state)))
    assert report.loaded == ["a.w"]
    assert report.skipped == ["a.b: [9] in the file, [4] in the network"]
    assert (report.missing, report.unused) == (["fc.w"], ["other"])
    assert "1 loaded, 1 skipped, 1 missing, 1 unused; skipped: a.b: [9]" in str(report)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"x": np.zeros(1)}, "none of these parameters fits the network"),
        ({}, "expected a dict name -> array"),
        ([1, 2], "expected a dict name -> array, got list"),
        ({"a.w": "text"}, "'a.w' is none"),
        ({"a.w": STATE["a.w"]}, "do not fit.*missing: a.b, fc.w"),
    ],
)
def test_weights_that_are_none_or_do_not_fit(tmp_path, network, state, message):
    with pytest.raises(WeightsError, match=message):
        checkpoint.load_weights(network, str(write(tmp_path / "w.pdparams", state)))


def test_no_weights(tmp_path, network):
    with pytest.raises(WeightsError, match=r"nothing: no such weights"):
        checkpoint.load_weights(network, str(tmp_path / "nothing"))


def build_momentum(network):
    schedule = optimizer.step_decay(0.1, 0.1, [2, 4])
    return optimizer.momentum(schedule, network.parameters(), 0.9, 0.0)


def step(network, updates):
    loss = network(paddle.ones([2, 3])).sum()
    loss.backward()
    updates.step()
    updates.clear_grad()
    optimizer.advance(updates)


def test_an_optimizer_of_2019_is_taken_up(tmp_path):
    """Its counter holds n - 1 after n steps; velocities have the names of 2019."""
    with paddle.utils.unique_name.guard():
        network = Small()
        updates = build_momentum(network)
        for _ in range(3):
            step(network, updates)
        state = checkpoint.optimizer_state(updates)
        parameters = checkpoint.network_state(network)
    assert {"a.w_velocity_0", "a.b_velocity_0", "fc.w_velocity_0"} <= set(state)
    old = {name: value for name, value in state.items() if name != "LR_Scheduler"}
    old["@LR_DECAY_COUNTER@"] = np.array([2], np.int64)
    old["learning_rate"] = np.array([0.01], np.float32)
    write(tmp_path / "old.pdopt", old)
    write(tmp_path / "new.pdopt", state)
    results = []
    for name in ("old", "new"):
        with paddle.utils.unique_name.guard():
            again = Small()
            checkpoint.load_into(again, parameters, name)
            resumed = build_momentum(again)
            assert checkpoint.load_optimizer(resumed, str(tmp_path / name), counter_begin=0)
            rates = []
            for _ in range(2):
                rates.append(resumed.get_lr())
                step(again, resumed)
            results.append((rates, checkpoint.network_state(again)))
    assert np.allclose(results[0][0], [0.01, 0.001]) and results[0][0] == results[1][0]
    for name, value in results[0][1].items():
        assert np.array_equal(value, results[1][1][name]), name


def test_files_are_replaced_whole_with_usual_permissions(tmp_path):
    path = tmp_path / "deep" / "x.bin"
    files.write_atomic(path, b"one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["x.bin"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"file/x\.bin: cannot write"):
        files.write_atomic(tmp_path / "file" / "x.bin", b"")


def test_json_has_null_for_what_it_does_not_know(tmp_path):
    files.write_json(
        tmp_path / "x.json", {"a": float("nan"), "b": [np.float32(1.5), float("inf")], "c": "跑"}
    )
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [1.5, None], "c": "跑"} and "跑" in text


def test_the_newest_whole_checkpoint_is_found_among_others(tmp_path):
    def put(name, step, finished=True):
        about = {
            "epoch": 0,
            "iteration": 0,
            "epoch_finished": finished,
            "step": step,
            "seed": 0,
            "best": None,
        }
        checkpoint.save([tmp_path / name], STATE, {}, about)

    assert checkpoint.find_resume("auto", str(tmp_path), "TSN") is None
    put("TSN_epoch0", 5)
    put("TSN_epoch1", 9)
    put("TSN_best", 11)  # no optimizer belongs to it
    put("TSNX", 99)
    assert checkpoint.find_resume("auto", str(tmp_path), "TSN") == str(tmp_path / "TSN_epoch1")
    (tmp_path / "TSN_epoch1.pdparams").unlink()
    assert checkpoint.find_resume("auto", str(tmp_path), "TSN") == str(tmp_path / "TSN_epoch0")
    for asked in ("TSN_epoch0", "TSN_epoch0.pdparams", "TSN_epoch0.json"):
        assert checkpoint.find_resume(str(tmp_path / asked), "", "TSN") == str(tmp_path / "TSN_epoch0")
