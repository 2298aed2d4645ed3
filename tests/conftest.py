"""Options and settings shared by all tests."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import paddle
import pytest

from tests.file_server import Server
from utils import download

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption(
        "--conformance-dir",
        default=str(ROOT / "tests" / "golden"),
        help="recorded numbers of the 2019 system (default: the subset in tests/golden)",
    )
    group.addoption("--models", default="", help="compare only these models, e.g. TSN,TSM (default: all)")


@pytest.fixture(autouse=True)
def _at_the_root_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of the recipes hold from the project's root; a test that leaves it comes back."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    paddle.set_device("cpu")


@pytest.fixture(autouse=True, scope="session")
def _surroundings_of_children() -> None:
    os.environ.setdefault("GLOG_minloglevel", "2")
    # A shell's background job ignores Ctrl-C, and so would every program that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An address to download from."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0, 0, 0))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()
