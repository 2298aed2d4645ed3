"""The benchmarks measure what they say; how long anything takes is nobody's business here."""

from __future__ import annotations

import json
import time

import pytest

from benchmark import networks
from utils.errors import ConfigError


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
