"""``python -m utils.doctor``: what it finds, what it does about broken machines, its exit status."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import namedtuple

import pytest

from tests.conftest import ROOT
from utils import doctor, probe
from utils.probe import Finding

Usage = namedtuple("Usage", "total used free")


def levels(check) -> dict[str, str]:
    return {finding.what: finding.level for finding in check()}


def test_on_this_machine_nothing_fails():
    done = subprocess.run(
        [sys.executable, "-m", "utils.doctor", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    findings = [Finding(**item) for item in json.loads(done.stdout)]
    assert [str(finding) for finding in findings if finding.level == "FAIL"] == []
    assert done.returncode == 0
    expected = {
        "python",
        "numpy",
        "opencv-python-headless",
        "av",
        "Pillow",
        "pydantic",
        "CPU",
        "disk, weights",
    }
    expected |= {"paddle", "GPUs", "computation on cpu", "oneDNN predictor", "decoder opencv", "decoder pyav"}
    assert expected <= {finding.what for finding in findings}
    assert all(bool(finding.todo) == (finding.level == "warn") for finding in findings)


def test_a_line_says_level_what_value_and_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_system, doctor.check_optional))
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-package": "nothing at all"})
    assert doctor.main([]) == 0  # a warning is no failure
    *_, python, optional, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"ok    python: 3\.\d+\.\d+\S*", python)
    assert optional == (
        "warn  optional no-such-package: not installed; needed for nothing at all only"
        "  -> pip install no-such-package"
    )
    assert last == "3 checks: 0 FAIL, 1 warn"


def test_a_failure_is_exit_status_1_and_the_rest_is_still_said(monkeypatch, capsys):
    def broken():
        yield Finding("ok", "first", "fine", "dropped")
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(doctor, "CHECKS", (broken, doctor.check_system))
    assert doctor.main(["--json"]) == 1
    first, second, *rest = json.loads(capsys.readouterr().out)
    assert first == {"level": "ok", "what": "first", "value": "fine", "todo": ""}
    assert (second["level"], second["what"], second["value"]) == (
        "FAIL",
        "broken",
        "RuntimeError: two lines",
    )
    assert [item["what"] for item in rest] == ["system", "python"]


@pytest.mark.parametrize(("version", "level"), [((3, 9), "FAIL"), ((3, 10), "ok"), ((3, 14), "warn")])
def test_python_versions(monkeypatch, version, level):
    monkeypatch.setattr(sys, "version_info", version)
    assert levels(doctor.check_system)["python"] == level


def test_packages_that_are_missing_broken_or_old(monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text(
        "nowhere>=1.0\nlame>=1.0  # why\nnumpy>=99\npaddlepaddle>=3.3\n"
    )
    (tmp_path / "lame.py").write_text("import a_part_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(doctor, "installed", lambda name: {"lame": "1.5", "numpy": "2.0.1"}.get(name, ""))
    found = {finding.what: finding for finding in doctor.check_packages()}
    assert {name: finding.level for name, finding in found.items()} == dict.fromkeys(found, "FAIL")
    assert found["nowhere"].value == "missing"
    assert (
        found["lame"].value == "1.5 is broken: ModuleNotFoundError: No module named 'a_part_that_is_missing'"
    )
    assert found["numpy"].value == "2.0.1, older than 99"


def test_versions_compare_as_numbers():
    assert doctor.numbers("4.10.0.84") > doctor.numbers("4.8")
    assert doctor.numbers("3.11.0rc1+cu12") == (3, 11, 0)


@pytest.mark.parametrize(("free", "level"), [(50, "ok"), (0.06, "FAIL"), (1, "warn")])
def test_little_room(monkeypatch, free, level):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(0, 0, free * doctor.GIB))
    assert levels(doctor.check_disk) == {"disk, project": level, "disk, weights": level}
    shared = levels(doctor.check_machine).get("/dev/shm")
    assert shared in (None, "warn" if free < 1 else "ok")


def test_weights_that_are_there(monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLE_VIDEO_WEIGHTS", str(tmp_path / "none"))
    assert [finding.value for finding in doctor.check_weights()] == ["none yet; downloaded when needed"]
    assert levels(doctor.check_disk)["disk, weights"] != "FAIL"  # the folder is not there yet
    monkeypatch.setenv("PADDLE_VIDEO_WEIGHTS", str(tmp_path))
    (tmp_path / "TSN.pdparams").write_bytes(b"x")
    (tmp_path / "TSM.pdparams").write_bytes(b"")
    (tmp_path / "ResNet50_pretrained").mkdir()
    (tmp_path / ".TSN.pdparams").write_bytes(b"")  # a download under way
    there, empty = doctor.check_weights()
    assert there.value == "ResNet50_pretrained, TSM.pdparams, TSN.pdparams"
    assert (empty.level, empty.value) == ("FAIL", "TSM.pdparams")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "crashed (SIGILL)"),
        ("raise OSError('libGL.so.1: cannot open')", "OSError: libGL.so.1: cannot open"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import time; time.sleep(60)", "no answer within 1 seconds"),
    ],
)
def test_a_probe_that_dies_is_a_failure(monkeypatch, tmp_path, code, reason):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "probe.py").write_text(
        f'print(\'noise\'); print(\'finding: ["ok", "a", "b", ""]\', flush=True); {code}'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 1 if "sleep" in code else 60)
    *before, last = doctor.check_paddle()
    assert (last.level, last.what, last.value) == ("FAIL", "paddle", reason)
    assert before == ([] if "sleep" in code else [Finding("ok", "a", "b")])


def test_decoders_that_miss_a_codec(monkeypatch):
    def broken(path):
        if "vp9" in path or "av1" in path:
            return [0, 25]
        if "h264" in path:
            raise OSError("no such decoder")
        return [99] * 8

    monkeypatch.setattr(probe, "write_video", lambda path, codec: None)
    monkeypatch.setattr(probe, "reds_opencv", broken)
    monkeypatch.setattr(probe, "reds_pyav", lambda path: [0, 25] if "av1" in path else list(probe.REDS))
    opencv, pyav = probe.decoders()
    assert opencv.level == "FAIL"
    assert opencv.value == (
        "nothing; not h264 (OSError: no such decoder); not hevc (wrong pixels); not vp9 (2 of 8 frames); "
        "not av1 (2 of 8 frames); not mpeg4 (wrong pixels)"
    )
    assert (pyav.level, pyav.value) == ("warn", "h264, hevc, vp9, mpeg4; not av1 (2 of 8 frames)")


def test_a_paddle_that_computes_wrong(monkeypatch):
    monkeypatch.setattr(probe, "multiply", lambda device: 0.5)
    monkeypatch.setattr(probe, "predict", lambda: float("nan"))
    found = levels(probe.paddle)
    assert (found["computation on cpu"], found["oneDNN predictor"]) == ("FAIL", "warn")


def test_both_builds_of_paddle_at_once(monkeypatch):
    monkeypatch.setattr(probe, "installed", lambda name: "3.3.1")
    monkeypatch.setattr(probe, "multiply", lambda device: 0.0)
    monkeypatch.setattr(probe, "predict", lambda: 0.0)
    first = next(probe.paddle())
    assert first.level == "FAIL" and "overwrite each other" in first.value
