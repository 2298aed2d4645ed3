"""What every part of the zoo stands on; imports libraries only, never models, readers or metrics."""

import os
import warnings

from utils import cpu

# Paddle reads the first, and warns of the second, while it is imported: later is too late.
os.environ.setdefault("GLOG_minloglevel", "2")
cpu.fast_gemm()
warnings.filterwarnings("ignore", message=".*No ccache found.*")
