"""utils.weights and the archives they come in, against a server of our own."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import pickle
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models import ZOO
from tests.file_server import DATA, SHA256, Server, fails, left
from tests.test_fluid_file import variable
from utils import checkpoint, config, download, registry, weights
from utils.errors import WeightsError

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
