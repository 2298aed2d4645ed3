"""Options and settings shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import paddle
import pytest

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
def _same_threads_for_children() -> None:
    os.environ.setdefault("GLOG_minloglevel", "2")
