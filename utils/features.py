"""Features of videos by any network of the zoo that has ``forward_features``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from paddle import nn

from utils import checkpoint, program
from utils.errors import WeightsError
from utils.precision import Precision
from utils.registry import ModelSpec


class _Features(nn.Layer):
    def __init__(self, network: nn.Layer) -> None:
        super().__init__()
        self.network = network

    def forward(self, image):
        return {"feature": self.network.forward_features(image)}


class FeatureExtractor:
    """Clips ``(N, S, C, H, W)`` float32 to features ``(N, S, D)`` float32, by the fastest right path.

    A network whose ``segments_are_independent`` is given ``frames_at_once`` segments at a time, whatever
    videos they come from, so that memory does not grow with their number; others get whole clips.
    """

    def __init__(
        self,
        network: nn.Layer,
        spec: ModelSpec,
        on_gpu: bool,
        to_static: bool = False,
        frames_at_once: int = 20,
        precision: Precision | None = None,
    ) -> None:
        row = replace(spec, inputs=("image",), outputs=("feature",), loss_inputs=())
        self.infer = program.inference(_Features(network), row, on_gpu, to_static, precision)
        self.at_once = frames_at_once if getattr(network, "segments_are_independent", False) else None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        if self.at_once is None:
            return self.infer({"image": image})["feature"]
        segments = image.reshape(-1, 1, *image.shape[2:])  # (N * S, 1, C, H, W)
        parts = [
            self.infer({"image": segments[start : start + self.at_once]})["feature"]
            for start in range(0, len(segments), self.at_once)
        ]
        return np.concatenate(parts).reshape(*image.shape[:2], -1)  # (N, S, D)


def load_backbone(network: nn.Layer, path: str) -> checkpoint.Report:
    """Weights of all but the classifier; WeightsError, with the table, where one is missing.

    The classifier is what ``adapt_pretrained`` leaves out.
    """
    names = {parameter.name: None for parameter in network.parameters()}
    needed = set(network.adapt_pretrained(dict(names)))
    report = checkpoint.load_into(network, checkpoint.read_weights(path), path)
    missing = needed - set(report.loaded)
    if missing:
        raise WeightsError(f"these weights do not fit the backbone of this recipe: {report}")
    return report


def rescaled(feature: np.ndarray, num_snippets: int) -> np.ndarray:
    """A sequence ``(S, D)`` at ``num_snippets`` equal parts of the video ``(num_snippets, D)``.

    Each is interpolated between the two segments whose middles lie around its own; the ends hold.
    """
    count = len(feature)
    place = (np.arange(num_snippets) + 0.5) * count / num_snippets - 0.5
    place = np.clip(place, 0, count - 1)
    before = np.floor(place).astype(int)
    after = np.minimum(before + 1, count - 1)
    share = (place - before)[:, None].astype(feature.dtype)
    return feature[before] * (1 - share) + feature[after] * share
