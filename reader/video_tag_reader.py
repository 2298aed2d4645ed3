"""Videos with any number of tags each, for VideoTag."""

from __future__ import annotations

from typing import Literal

import numpy as np

from reader.common import filelist
from reader.kinetics_reader import KineticsReader
from utils.config import key


class TaggedVideoReader(KineticsReader):
    """As ``KineticsReader`` for lists ``path tag tag …``: ``label`` is (K,) float32 of 0 and 1."""

    class Config(KineticsReader.Config):
        format: Literal["video", "mp4", "frames"] = key("video")
        num_classes: int = key(3396, gt=0)  # K
        seg_num: int = key(300, gt=0)

    def _read_labelled(self) -> list[filelist.Line]:
        return filelist.read_tagged(self.config.filelist, self.config.num_classes)

    def _label(self, line: filelist.Line, label: int) -> np.ndarray:
        target = np.zeros(self.config.num_classes, np.float32)
        target[list(line.labels)] = 1.0
        return target
