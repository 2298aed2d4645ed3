"""What every part of the zoo stands on; imports libraries only, never models, readers or metrics."""

import os
import warnings

# Before Paddle: 2.6 exports a zlib of its own, with which what is loaded later (zlib, PyAV, Pillow) crashes.
import zlib  # noqa: F401

from utils import cpu

# Paddle reads these, and warns of the last, while it is imported: later is too late.
os.environ.setdefault("GLOG_minloglevel", "2")
# Paddle then sets it to 1: kept here, also for ranks and readers, is what the user said (utils/device.py).
os.environ.setdefault("ZOO_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", ""))
if "OMP_WAIT_POLICY" not in os.environ:
    # Milliseconds that an idle thread keeps its core busy. The default of 200 slows readers and other
    # programs on the same cores; 0 costs a small network a quarter of its speed.
    os.environ.setdefault("KMP_BLOCKTIME", "1")
cpu.fast_gemm()
warnings.filterwarnings("ignore", message=".*No ccache found.*")
