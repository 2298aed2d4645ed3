"""utils.download and utils.weights against a server of our own on 127.0.0.1: no other network is touched."""

from __future__ import annotations

import contextlib
import copy
import errno
import gzip
import hashlib
import io
import logging
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from models import ZOO
from tests.conftest import ROOT
from tests.test_fluid_file import variable
from utils import checkpoint, config, download, registry, weights
from utils.errors import WeightsError

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
CUT = re.compile("more expected|bytes came, expected")  # urllib3 2 says the first, 1.26 nothing


class Server(ThreadingHTTPServer):
    """What it gives and how it fails is set by the test; ``asked`` holds (path, Range) of each request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/a.pdparams": DATA}
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, str] = {"ETag": '"1"'}  # None: not sent
        self.status: int | None = None
        self.ranges = True
        self.cuts: list[int] = []  # of the coming requests: the bytes sent before the connection breaks
        self.go_on = threading.Event()  # cleared: the answer stops half-way until it is set
        self.go_on.set()
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str = "/a.pdparams") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, given = self.server, self.headers["Range"]
        server.asked.append((self.path, given))
        if self.path in server.redirects:
            return self.head(302, {"Location": server.redirects[self.path], "Content-Length": "0"})
        if self.path not in server.files:
            return self.head(404, {"Content-Length": "0"})
        data = server.files[self.path]
        start = int(given.removeprefix("bytes=").removesuffix("-")) if given and server.ranges else 0
        if start and start >= len(data):
            return self.head(416, {"Content-Range": f"bytes */{len(data)}", "Content-Length": "0"})
        about = {"Content-Length": str(len(data) - start), **server.headers}
        if start:
            about = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}", **about}
        self.head(server.status or (206 if start else 200), about)
        body = data[start:]
        if server.cuts:
            body = body[: server.cuts.pop(0)]
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        server.go_on.wait(20)
        with contextlib.suppress(ConnectionError):  # a client that was killed, or would not wait
            self.wfile.write(body[len(body) // 2 :])  # HTTP/1.0: then the connection is closed

    def head(self, status: int, headers: dict[str, str | None]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0, 0, 0))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def left(folder: Path) -> list[str]:
    """Names in ``folder``, without the lock, which stays."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def fails(*args, **kwargs) -> str:
    with pytest.raises(WeightsError) as caught:
        download.fetch(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


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


def child(target: Path, url: str) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, str(target), url]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


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


# ---- archives --------------------------------------------------------------------------------------

STATE = {f"conv{i}_weights": np.full((2, i + 1), i, np.float32) for i in range(3)}


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, io.BytesIO(data)


def archive(*members: tuple[tarfile.TarInfo, io.BytesIO]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for info, data in members:
            tar.addfile(info, data)
    return file.getvalue()


def good(prefix: str) -> list[tuple[tarfile.TarInfo, io.BytesIO]]:
    return [member(f"{prefix}{name}", variable(array)) for name, array in STATE.items()]


def fetch_archive(server: Server, folder: Path, data: bytes, **kwargs: str) -> Path:
    server.files["/backbone.tar.gz"] = data
    return download.fetch(folder / "Backbone", [server.url("/backbone.tar.gz")], **kwargs)


@pytest.mark.parametrize(
    "members",
    [
        [member("ResNet/", type=tarfile.DIRTYPE), *good("ResNet/")],
        [member("._ResNet", b"macOS"), *good("./ResNet/")],
        good(""),
        [member("./", type=tarfile.DIRTYPE), *good("./")],
    ],
    ids=["folder", "folder of macOS", "no folder", "dot"],
)
def test_an_archive_becomes_a_folder_of_variables(server, tmp_path, members):
    data = archive(*members)
    folder = fetch_archive(server, tmp_path, data, sha256=hashlib.sha256(data).hexdigest())
    state = checkpoint.read_weights(str(folder))
    assert list(state) == list(STATE) and all(np.array_equal(state[name], STATE[name]) for name in STATE)
    assert left(tmp_path) == ["Backbone"]


EVIL = {
    "parent": [member("../evil", b"x")],
    "parent inside": [member("ResNet/a/../../../evil", b"x")],
    "parent, backslashes": [member("ResNet\\..\\..\\evil", b"x")],
    "absolute": [member("{outside}/evil", b"x")],
    "drive": [member("C:/evil", b"x")],
    "symbolic link": [member("ResNet/evil", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "link to write through": [
        member("ResNet", type=tarfile.SYMTYPE, linkname="{outside}"),
        member("ResNet/evil", b"x"),
    ],
    "hard link": [member("ResNet/evil", type=tarfile.LNKTYPE, linkname="{outside}/mine")],
    "device": [member("ResNet/evil", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "pipe": [member("ResNet/evil", type=tarfile.FIFOTYPE)],
    "given twice": [member("ResNet/evil", b"x"), member("ResNet/evil", b"y")],
    "file and folder": [member("ResNet/a", b"x"), member("ResNet/a/b/evil", b"y")],
    "too many": [member(f"ResNet/{i}") for i in range(11)],
    "too much": [member("ResNet/evil", bytes(100_001))],
    "nothing": [member("ResNet/", type=tarfile.DIRTYPE)],
}


@pytest.mark.parametrize("name", EVIL)
def test_an_archive_that_reaches_outside_is_refused(server, tmp_path, monkeypatch, name):
    monkeypatch.setattr(download, "MAX_MEMBERS", 10)
    monkeypatch.setattr(download, "MAX_EXTRACTED_BYTES", 100_000)
    outside, folder = tmp_path / "outside", tmp_path / "a" / "weights"
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    members = [_placed(info, data, outside) for info, data in EVIL[name]]
    with pytest.raises(WeightsError, match=r"backbone\.tar\.gz is not a sound archive: ") as caught:
        fetch_archive(server, folder, archive(*([] if name == "nothing" else good("ResNet/")), *members))
    assert "\n" not in str(caught.value)
    assert left(folder) == [] and left(folder.parent) == ["weights"] and left(tmp_path) == ["a", "outside"]
    assert left(outside) == ["mine"] and (outside / "mine").read_bytes() == b"mine"


def _placed(info: tarfile.TarInfo, data: io.BytesIO, outside: Path) -> tuple[tarfile.TarInfo, io.BytesIO]:
    """A member that is safe to change, with the name of the folder that it aims at."""
    info = copy.copy(info)
    info.name = info.name.replace("{outside}", str(outside))
    info.linkname = info.linkname.replace("{outside}", str(outside))
    return info, io.BytesIO(data.getvalue())


def test_a_damaged_archive_is_refused(server, tmp_path):
    whole = archive(*good("ResNet/"))
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # in gzip's checksum
    for data in (
        b"<xml>AccessDenied</xml>",
        whole[:-30],
        whole[:20],
        bytes(flipped),
        gzip.compress(DATA),
    ):
        with pytest.raises(WeightsError, match="not a sound archive"):
            fetch_archive(server, tmp_path, data)
        assert left(tmp_path) == []


def test_an_archive_put_there_by_hand_is_taken(server, tmp_path):
    (tmp_path / "backbone.tar.gz").write_bytes(archive(*good("ResNet/")))
    assert "has sha256" in fails(tmp_path / "Backbone", [server.url("/backbone.tar.gz")], "0" * 64)
    folder = download.fetch(tmp_path / "Backbone", [server.url("/backbone.tar.gz")])
    assert list(checkpoint.read_weights(str(folder))) == list(STATE)
    assert server.asked == [] and left(tmp_path) == ["Backbone", "backbone.tar.gz"]


def test_what_an_interrupted_extraction_left_is_cleared(server, tmp_path, monkeypatch):
    data = archive(*good("ResNet/"))
    (tmp_path / ".Backbone.extracting").mkdir()
    (tmp_path / ".Backbone.extracting" / "half").write_bytes(b"x")
    folder = fetch_archive(server, tmp_path, data)
    assert left(folder) == list(STATE) and left(tmp_path) == ["Backbone"]


# ---- the zoo's rows --------------------------------------------------------------------------------


class Usual(config.Config):
    num_classes: int = config.key(400)
    num_layers: int = config.key(50)


def row(server: Server, **fields: object) -> registry.ModelSpec:
    server.files["/ResNet50_pretrained.tar.gz"] = archive(*good("ResNet50_pretrained/"))
    urls = {"weights_urls": (server.url("/none"), server.url())}
    backbone = server.url("/ResNet50_pretrained.tar.gz")
    return replace(ZOO[0], **{**urls, "pretrain_urls": (backbone,), **fields})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLE_VIDEO_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_published_weights_and_the_backbone_come_once(server, folder):
    spec = row(server, weights_sha256=SHA256)
    for _ in range(2):
        assert weights.published(spec, Usual()) == str(folder / "TSN.pdparams")
        assert weights.default_pretrain(spec, Usual()) == str(folder / "ResNet50_pretrained")
    assert (folder / "TSN.pdparams").read_bytes() == DATA
    assert list(checkpoint.read_weights(str(folder / "ResNet50_pretrained"))) == list(STATE)
    paths = ("/none", "/a.pdparams", "/ResNet50_pretrained.tar.gz")
    assert Counter(path for path, _ in server.asked) == dict.fromkeys(paths, 1)


def test_the_folder_of_2019_is_the_usual_one(monkeypatch):
    monkeypatch.delenv("PADDLE_VIDEO_WEIGHTS", raising=False)
    assert weights.weights_folder() == Path.home() / ".paddle" / "weights"


def test_published_weights_are_never_taken_for_other_classes(server, folder):
    with pytest.raises(WeightsError, match="num_classes is 4, but the published weights of TSN know 400"):
        weights.published(row(server), Usual(num_classes=4))
    assert server.asked == [] and not folder.exists()


def test_rows_without_published_weights_say_so(server, folder):
    with pytest.raises(WeightsError, match="--weights is missing, and there are no published weights of TSN"):
        weights.published(row(server, weights=""), Usual())
    assert weights.default_pretrain(row(server, pretrain=""), Usual()) is None
    assert weights.default_pretrain(row(server), Usual(num_layers=18)) is None
    assert server.asked == [] and not folder.exists()


def test_what_cannot_be_had_says_what_to_put_where(server, folder):
    spec = row(server)
    server.files.clear()
    with pytest.raises(WeightsError) as caught:
        weights.published(spec, Usual())
    assert str(caught.value) == (
        f"--weights is missing and {folder / 'TSN.pdparams'} does not exist: put there "
        f"{spec.weights_urls[0]} or {spec.weights_urls[1]}; download: {server.url()}: 404 Not Found"
    )
    with pytest.raises(WeightsError) as caught:
        weights.default_pretrain(spec, Usual())
    url = spec.pretrain_urls[0]
    assert str(caught.value) == (
        f"--pretrain is missing and {folder / 'ResNet50_pretrained'} does not exist: put there {url} "
        f"(extracted, or the archive itself into {folder}); download: {url}: 404 Not Found; "
        "--pretrain=none starts from scratch"
    )


def test_the_addresses_of_the_zoo_are_safe():
    for spec in ZOO:
        assert all(url.startswith("https://") for url in spec.weights_urls + spec.pretrain_urls)
        for digest in (spec.weights_sha256, spec.pretrain_sha256):
            assert not digest or len(bytes.fromhex(digest)) == 32


# ---- VideoTag: a file out of an archive, two rows as one -----------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_comes_out_of_an_archive_with_its_texts(server, tmp_path, zipped):
    members = [member("video_tag_tsn/tsn.pdparams", DATA), member("video_tag_tsn/tsn.pdopt", b"x")]
    data = archive(*members, member("video_tag_tsn/label.txt", b"a\n"))
    server.files["/tsn.tar"] = data if zipped else gzip.decompress(data)
    target = download.fetch(tmp_path / "weights" / "tsn.pdparams", [server.url("/tsn.tar")])
    assert target.read_bytes() == DATA
    assert left(target.parent) == ["label.txt", "tsn.pdparams"]
    download.fetch(target, [server.url("/tsn.tar")])
    assert len(server.asked) == 1


def test_an_archive_without_the_file_is_refused(server, tmp_path):
    server.files["/tsn.tar"] = archive(member("video_tag_tsn/other.pdparams", DATA))
    with pytest.raises(WeightsError, match=r"tsn.tar is not a sound archive: it holds no tsn.pdparams"):
        download.fetch(tmp_path / "tsn.pdparams", [server.url("/tsn.tar")])


def test_rows_of_several_files_are_read_together(server, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "PROJECT", tmp_path)
    rows = []
    for name, state in (("a", {"x": np.zeros(2, np.float32)}), ("b", {"y": np.ones(3, np.float32)})):
        data = pickle.dumps(state)
        server.files[f"/{name}.tar"] = archive(member(f"{name}/{name}.pdparams", data))
        urls = (server.url(f"/{name}.tar"),)
        rows.append(row(server, weights=f"{name}.pdparams", weights_urls=urls, weights_folder="here"))
    both = row(server, weights="", weights_urls=(), weights_of=tuple(rows))
    path = weights.published(both, Usual())
    assert sorted(checkpoint.read_weights(path)) == ["x", "y"]
    with pytest.raises(WeightsError, match="b-gone: no such weights"):
        checkpoint.read_weights(f"{tmp_path}/here/a.pdparams,b-gone")
