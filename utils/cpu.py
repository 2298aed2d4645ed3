"""What makes Paddle's own kernels fast on a CPU; neither changes what is computed."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def fast_gemm() -> None:
    """Let Paddle's MKL, which is of 2019, use AVX2 on a processor of AMD: it takes SSE there (2.6x slower).

    To be called before Paddle is imported. What the user has set is kept.
    """
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if "AuthenticAMD" in about and " avx2 " in about:
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")


def keep_memory() -> None:
    """Keep freed memory for the next tensor instead of giving it back to the system.

    The system clears every page anew: with tensors of 100 MB that takes longer than adding two of them.
    Needs up to a quarter more memory. MALLOC_MMAP_MAX_ or MALLOC_TRIM_THRESHOLD_ in the environment win.
    """
    if sys.platform != "linux" or {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent from musl
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
