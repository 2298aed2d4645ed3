"""Settings for CPUs: made for the right processor, and never over the user's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils import cpu

AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx avx2 fma\n"


@pytest.mark.parametrize(
    "about, given, expected",
    [
        (AMD, None, "5"),
        (AMD, "4", "4"),
        (AMD.replace(" avx2", ""), None, None),
        (AMD.replace("AuthenticAMD", "GenuineIntel"), None, None),
    ],
)
def test_mkl_is_told_of_avx2_on_amd_alone(monkeypatch, about, given, expected):
    monkeypatch.setattr(Path, "read_text", lambda *args, **kwargs: about)
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", given or "")
    if not given:
        monkeypatch.delenv("MKL_DEBUG_CPU_TYPE")
    cpu.fast_gemm()
    assert os.environ.get("MKL_DEBUG_CPU_TYPE") == expected


def test_memory_settings_of_the_user_win(monkeypatch):
    def none_called(*args):
        raise AssertionError("mallopt was called")

    monkeypatch.setattr(cpu.ctypes, "CDLL", none_called)
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    cpu.keep_memory()
