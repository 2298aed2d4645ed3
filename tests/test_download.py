"""utils.download: one file, against a server of our own."""

from __future__ import annotations

import errno
import gzip
import io
import logging
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.file_server import DATA, SHA256, closed_port, fails, left
from tests.programs import started
from utils import download

CUT = re.compile("more expected|bytes came, expected")  # urllib3 2 says the first, 1.26 nothing


# ---- one file --------------------------------------------------------------------------------------


def test_a_whole_file_comes_is_checked_and_said(server, tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO)
    target = tmp_path / "new" / "weights" / "A.pdparams"
    assert download.fetch(target, [server.url()], SHA256.upper()) == target
    assert target.read_bytes() == DATA and left(target.parent) == ["A.pdparams"]
    assert server.asked == [("/a.pdparams", None)]
    lines = [record.getMessage() for record in caplog.records if record.name == "utils.download"]
    assert lines == [
        f"downloading {server.url()} (0.3 MB) to {target.parent}, from byte 0",
        f"{server.url()}: 300000 bytes, sha256 {SHA256}",
    ]
    assert capfd.readouterr().err == ""  # no bar: this is no terminal


def test_what_is_there_is_not_asked_for(server, tmp_path):
    (tmp_path / "A.pdparams").write_bytes(b"mine")
    (tmp_path / "B").mkdir()
    for name in ("A.pdparams", "B"):
        download.fetch(tmp_path / name, [server.url()], SHA256)
    assert server.asked == [] and left(tmp_path) == ["A.pdparams", "B"]


def test_after_a_cut_only_the_rest_is_asked_for(server, tmp_path, caplog):
    server.cuts = [200_000, 50_000]
    target = download.fetch(tmp_path / "A.pdparams", [server.url()], SHA256)
    assert target.read_bytes() == DATA and left(tmp_path) == ["A.pdparams"]
    starts = [int((given or "bytes=0-")[6:-1]) for _, given in server.asked]
    assert len(starts) == 3 and 0 == starts[0] < starts[1] <= 200_000 and starts[1] < starts[2] <= 250_000
    assert CUT.search(caplog.text) and "going on" in caplog.text


def test_a_download_that_broke_off_goes_on_with_the_next_run(server, tmp_path):
    server.cuts = [100_000, 70_000, 0, 0]
    message = fails(tmp_path / "A.pdparams", [server.url()], SHA256)
    assert CUT.search(message) and len(server.asked) == 4
    assert left(tmp_path) == ["A.pdparams.part", "A.pdparams.part.json"]
    have = (tmp_path / "A.pdparams.part").read_bytes()
    assert 100_000 <= len(have) <= 170_000 and have == DATA[: len(have)]
    server.cuts = []
    download.fetch(tmp_path / "A.pdparams", [server.url()], SHA256)
    assert server.asked[4:] == [("/a.pdparams", f"bytes={len(have)}-")]
    assert (tmp_path / "A.pdparams").read_bytes() == DATA and left(tmp_path) == ["A.pdparams"]


def test_a_server_without_ranges_is_asked_anew(server, tmp_path):
    server.ranges, server.cuts = False, [200_000]
    target = download.fetch(tmp_path / "A.pdparams", [server.url()])
    assert target.read_bytes() == DATA and len(server.asked) == 2


@pytest.mark.parametrize("change", ["etag", "size", "address", "shorter than what has come", "a torn note"])
def test_two_versions_are_never_joined(server, tmp_path, change):
    server.cuts = [200_000, 0, 0, 0]
    fails(tmp_path / "A.pdparams", [server.url()])
    size = {"size": 300_001, "shorter than what has come": 1000}.get(change, 300_000)
    other = server.files["/a.pdparams"] = server.files["/b.pdparams"] = random.Random(1).randbytes(size)
    if change == "etag":
        server.headers["ETag"] = '"2"'
    if change == "a torn note":
        (tmp_path / "A.pdparams.part.json").write_text('{"url": ')
    path = "/b.pdparams" if change == "address" else "/a.pdparams"
    download.fetch(tmp_path / "A.pdparams", [server.url(path)])
    assert (tmp_path / "A.pdparams").read_bytes() == other and left(tmp_path) == ["A.pdparams"]


def test_a_missing_file_is_asked_for_at_the_next_address(server, tmp_path, caplog):
    target = download.fetch(tmp_path / "A.pdparams", [server.url("/none"), server.url()], SHA256)
    assert target.read_bytes() == DATA and "/none: 404 Not Found" in caplog.text


def test_a_redirection_is_followed(server, tmp_path):
    server.redirects["/old"] = server.url()
    assert download.fetch(tmp_path / "A", [server.url("/old")]).read_bytes() == DATA


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    message = fails(tmp_path / "A.pdparams", [server.url(), server.url()], "0" * 64)
    assert message == f"{server.url()} has sha256 {SHA256}, expected {'0' * 64}: not used"
    assert not (tmp_path / "A.pdparams").exists() and not (tmp_path / "A.pdparams.part").exists()
    assert len(server.asked) == 1
    download.fetch(tmp_path / "A.pdparams", [server.url()], SHA256)
    assert server.asked[1:] == [("/a.pdparams", None)] and left(tmp_path) == ["A.pdparams"]


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (200, {"Content-Length": "300007"}, "expected"),
        (200, {"Content-Length": None}, "of unknown size"),
        (200, {"Content-Length": "a few"}, "of unknown size"),
        (200, {"Content-Type": "text/html; charset=utf-8"}, "or a web page"),
        (206, {}, "of unknown size"),
        (206, {"Content-Range": "bytes 7-299999/300000"}, "206 Partial Content"),
        (200, {"Content-Length": "0"}, "the answer is empty"),
        (503, {}, "503 Service Unavailable"),
        (203, {}, "203 Non-Authoritative"),
    ],
)
def test_an_answer_that_is_not_the_whole_file_is_refused(server, tmp_path, status, headers, message):
    server.status, server.headers, server.ranges = status, headers, False
    assert message in fails(tmp_path / "A.pdparams", [server.url()])
    assert not (tmp_path / "A.pdparams").exists()


def test_bytes_come_as_they_lie_on_the_server(server, tmp_path):
    packed = server.files["/a.gz"] = gzip.compress(DATA)
    server.headers["Content-Encoding"] = "gzip"  # what some servers say of every .tar.gz
    assert download.fetch(tmp_path / "a.gz", [server.url("/a.gz")]).read_bytes() == packed


def test_only_http_and_https(server, tmp_path):
    file = tmp_path / "secret"
    file.write_bytes(b"secret")
    server.redirects["/to_file"] = file.as_uri()
    assert "neither http nor https" in fails(tmp_path / "A", [file.as_uri()])
    assert "No connection adapters" in fails(tmp_path / "A", [server.url("/to_file")])


def test_https_is_not_left(tmp_path, monkeypatch):
    def get(url, **kwargs):
        answer = download.requests.Response()
        answer.url, answer.status_code, answer.raw = "http://127.0.0.1/a", 200, io.BytesIO(DATA)
        return answer

    monkeypatch.setattr(download.requests, "get", get)
    assert "sent on from https to http" in fails(tmp_path / "A", ["https://127.0.0.1/a"])


def test_certificates_are_checked_and_waiting_ends(server, tmp_path, monkeypatch):
    given = {}

    def get(url, **kwargs):
        given.update(kwargs)
        raise download.requests.ConnectTimeout("no answer")

    monkeypatch.setattr(download.requests, "get", get)
    assert "no answer" in fails(tmp_path / "A", [server.url()])
    assert given["timeout"] == (10, 30) and given.get("verify", True) is True


def test_a_silent_server_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", (5, 0.1))
    server.go_on.clear()
    assert "timed out" in fails(tmp_path / "A", [server.url()])
    assert len(server.asked) == 4


def test_no_network_is_one_line_and_no_waiting(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    urls = [f"http://127.0.0.1:{closed_port()}/{name}" for name in ("A.pdparams", "A_final.pdparams")]
    begun = time.monotonic()
    message = fails(tmp_path / "A.pdparams", urls)
    assert time.monotonic() - begun < 1
    file = tmp_path / "A.pdparams"
    expected = (
        f"{file} does not exist: put there {urls[0]} or {urls[1]}; download: {urls[1]}: Connection refused"
    )
    assert message == expected


def test_a_full_disk_leaves_what_has_come(server, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        message = fails(tmp_path / "A.pdparams", [server.url()], SHA256)
    assert (
        message
        == f"{tmp_path / 'A.pdparams'} cannot be written: No space left on device; what has come is kept"
    )
    assert left(tmp_path) == ["A.pdparams.part", "A.pdparams.part.json"]
    download.fetch(tmp_path / "A.pdparams", [server.url()], SHA256)
    assert len(server.asked) == 1  # all of it had come


def test_a_folder_that_cannot_be_made_is_one_line(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert "file cannot be written: " in fails(tmp_path / "file" / "A.pdparams", [server.url()])
    assert server.asked == []


# ---- several processes -----------------------------------------------------------------------------

CHILD = """
import logging, sys
from pathlib import Path
from utils import download
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
download.NOTE_AFTER_SECONDS = 0.1
download.fetch(Path(sys.argv[1]), [sys.argv[2]])
print("has", Path(sys.argv[1]).stat().st_size, flush=True)
"""


def child(target: Path, url: str) -> AbstractContextManager[subprocess.Popen]:
    return started([sys.executable, "-c", CHILD, str(target), url])


def test_of_two_processes_one_downloads_and_the_other_waits(server, tmp_path):
    server.go_on.clear()
    with child(tmp_path / "A", server.url()) as first, child(tmp_path / "A", server.url()) as second:
        lines = {first: first.stdout.readline(), second: second.stdout.readline()}
        server.go_on.set()
        for process in lines:
            lines[process] += process.communicate(timeout=20)[0]
    assert (first.returncode, second.returncode) == (0, 0), lines
    texts = sorted(lines.values())  # "downloading", "waiting"
    assert texts[0].startswith("downloading ") and texts[1].startswith("waiting for another process")
    assert all(text.endswith("has 300000\n") for text in texts)
    assert len(server.asked) == 1 and left(tmp_path) == ["A"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_process_leaves_its_part_and_no_lock(server, tmp_path, how):
    server.go_on.clear()
    part = tmp_path / "A.part"
    with child(tmp_path / "A", server.url()) as process:
        deadline = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(how)
        process.communicate(timeout=20)
    assert process.returncode == -how
    have = part.stat().st_size
    server.go_on.set()
    assert download.fetch(tmp_path / "A", [server.url()], SHA256).read_bytes() == DATA
    assert [given for _, given in server.asked] == [None, f"bytes={have}-"]
