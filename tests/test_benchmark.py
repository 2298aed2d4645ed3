"""The benchmarks measure what they say; how long anything takes is nobody's business here."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmark import networks, torch_peer
from utils.errors import ConfigError, ZooError


def test_each_case_runs_in_a_process_of_its_own(tmp_path, capsys):
    out = tmp_path / "networks.json"
    paths = (networks.EAGER, networks.TRAIN)
    argv = ["--models=tsn", "--scale=tiny", "--threads=1", "--runs=2", f"--paths={','.join(paths)}"]
    assert networks.main([*argv, f"--out={out}"]) == 0
    cases = json.loads(out.read_text(encoding="utf-8"))["cases"]
    assert [case["path"] for case in cases] == list(paths)
    for case, size in zip(cases, (1, 2), strict=True):
        assert (case["model"], case["threads"], case["batch_size"]) == ("TSN", 1, size)
        assert len(case["milliseconds"]) == 2 and case["median"] > 0 and case["ratio"] == 1
        assert case["peak_megabytes"] > 100
        assert case["input"] == {"image": [size, 2, 3, 32, 32]} and case["note"] == ""
    printed = capsys.readouterr().out
    assert "TSN: image 1x2x3x32x32" in printed

    failing = [*argv, "-o", "MODEL.num_layers=7", f"--out={out}"]
    assert networks.main(failing) == 1
    assert "num_layers" in json.loads(out.read_text(encoding="utf-8"))["cases"][0]["error"]
    with pytest.raises(ConfigError, match="slow"):
        networks.main(["--paths=slow"])


def test_ratios_are_to_eager_of_the_same_threads_and_to_the_first_training_step():
    def case(path: str, threads: int, median: float | None) -> dict:
        return {"path": path, "threads": threads, **({} if median is None else {"median": median})}

    records = [
        case(networks.EAGER, 1, 100.0),
        case(networks.EAGER, 2, 60.0),
        case(networks.ONEDNN, 1, 50.0),
        case(networks.ONEDNN, 2, 20.0),
        case(networks.TRAIN, 1, 900.0),
        case(networks.TRAIN, 2, 450.0),
    ]
    assert [networks.ratio(record, records) for record in records] == [1, 1, 2, 3, 1, 2]
    assert networks.ratio(records[2], records[2:]) is None
    assert networks.ratio(records[2], [case(networks.EAGER, 1, None)]) is None


def test_no_run_begins_after_the_time():
    runs = []

    def run() -> None:
        runs.append(time.perf_counter())
        time.sleep(0.02)

    clock, cpu = networks.timed(run, 5, max_seconds=0.0)
    assert len(clock) == len(cpu) == 1  # one that counts, behind one that does not
    assert len(runs) == 2
    assert len(networks.timed(run, 3, max_seconds=60.0)[0]) == 3
    assert clock[0] >= 20 > cpu[0], "sleeping takes no CPU"


# A stand-in for the interpreter with PyTorch: it gives back the logits of the case, once too high.
PEER = """#!{python}
import json, sys
import numpy as np
if sys.argv[1] != "-c":
    folder, path, runs = sys.argv[2], sys.argv[3], int(sys.argv[4])
    with np.load(folder + "/weights.npz") as weights:
        assert weights["res5c_branch2c_weights"].shape == (2048, 512, 1, 1)
    image = np.load(folder + "/image.npy")
    logits = np.load({logits!r}) + {error}
    print(json.dumps({{"milliseconds": [1.0] * runs, "peak_megabytes": 1.0, "result": logits.tolist()}}))
"""


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_the_peer_is_compared_before_it_is_timed(tmp_path, monkeypatch, capsys, error):
    python, logits = tmp_path / "python", tmp_path / "logits.npy"
    python.write_text(PEER.format(python=sys.executable, logits=str(logits), error=error), encoding="utf-8")
    python.chmod(0o700)
    written, sizes = torch_peer.write_case, []

    def noted(config, size, peer, folder):
        ours = written(config, size, peer, folder)
        np.save(logits, ours / np.abs(ours).max())
        sizes.append(np.load(folder / "image.npy").shape)
        return ours / np.abs(ours).max()

    monkeypatch.setattr(torch_peer, "write_case", noted)
    monkeypatch.setattr(networks, "run_case", lambda case: {"milliseconds": [2.0], "peak_megabytes": 9.0})
    recipe = tmp_path / "tsn.yaml"
    text = Path("configs/tsn.yaml").read_text(encoding="utf-8")
    recipe.write_text(
        text.replace("short_size: 256", "short_size: 40").replace("target_size: 224", "target_size: 32")
    )
    argv = [f"--torch_python={python}", f"--config={recipe}", f"--out={tmp_path / 'out.json'}", "--threads=1"]
    if error:
        with pytest.raises(ZooError, match="not the same network"):
            torch_peer.main(argv)
        return
    assert torch_peer.main(argv) == 0
    assert sizes[0][-2:] == (32, 32) and [shape[0] for shape in sizes] == [1, 2]
    cases = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["cases"]
    assert [(case["case"], case["name"], case["ratio"]) for case in cases] == [
        ("inference", "PyTorch", 1.0),
        ("inference", networks.EAGER, 0.5),
        ("inference", networks.ONEDNN, 0.5),
        ("train", "PyTorch", 1.0),
        ("train", networks.TRAIN, 0.5),
    ]


def test_a_peer_without_torch_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        torch_peer.main([f"--torch_python={tmp_path / 'python'}"])
    python = tmp_path / "no_torch"
    python.write_text(
        "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'torch'\" >&2\nexit 1\n", encoding="utf-8"
    )
    python.chmod(0o700)
    with pytest.raises(ConfigError, match=r"No module named 'torch'; .*no_torch -m pip install torch numpy"):
        torch_peer.main([f"--torch_python={python}"])
