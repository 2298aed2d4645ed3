"""VideoTag: tags for any video, by two networks in a row (Baidu, 2020).

A TSN without its classifier (Wang et al., https://arxiv.org/abs/1608.00859) makes a feature of each of many
frames; AttentionLSTM (see attention_lstm.py) reads their sequence and gives a probability for every tag.
2020 trained the first on some 100,000 videos, the second on ten million. The second is what one
fine-tunes; the first is kept as it is.
Shapes: N videos, S frames of each, C = 3 * seglen channels, H x W pixels, D features of a frame, K tags.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import paddle
from paddle import Tensor, nn
from pydantic import PositiveInt

from models import attention_lstm
from models.attention_lstm import StreamNames
from models.common.resnet import DEPTHS, ResNet
from utils import program
from utils.config import Config, Sections, key
from utils.errors import ConfigError
from utils.features import FeatureExtractor
from utils.precision import Precision
from utils.registry import ModelSpec


class AttentionLSTM(attention_lstm.AttentionLSTM):
    """As for YouTube-8M, with names for its layers, and no bias in front of the LSTMs and the attention."""

    class Config(attention_lstm.AttentionLSTM.Config):
        feature_names: list[str] = key(["rgb"], "MODEL", min_length=1)
        feature_dims: list[PositiveInt] = key([2048], "MODEL", min_length=1)
        embedding_size: int = key(1024, "MODEL", gt=0)
        lstm_size: int = key(512, "MODEL", gt=0)
        num_classes: int = key(3396, gt=0)

    projection_bias: ClassVar[bool] = False

    @classmethod
    def stream_names(cls, features: list[str]) -> list[StreamNames]:
        parts = ("fc", "fc_forward", "lstm_forward", "fc_backward", "lstm_backward", "weight")
        return [StreamNames(*(f"{feature}_{part}" for part in parts)) for feature in features]

    @classmethod
    def head_names(cls, features: list[str]) -> list[str]:
        return ["fc1", "fc2", "output"]


class VideoTag(nn.Layer):
    class Config(Config):
        num_layers: int = key(101)  # of the ResNet
        seglen: int = key(1, gt=0)  # consecutive frames a segment, stacked as channels
        embedding_size: int = key(1024, "MODEL", gt=0)
        lstm_size: int = key(512, "MODEL", gt=0)
        classifier_sizes: list[PositiveInt] = key([8192, 4096], "MODEL", min_length=2, max_length=2)
        drop_rate: float = key(0.5, "MODEL", ge=0, lt=1)
        num_classes: int = key(3396, gt=0)  # K

    segments_are_independent = True
    loss_is_sum = True

    def __init__(self, config: VideoTag.Config) -> None:
        super().__init__()
        if config.num_layers not in DEPTHS:
            raise ConfigError(
                f"MODEL.num_layers is {config.num_layers}, known: {', '.join(map(str, DEPTHS))}"
            )
        self.backbone = ResNet(config.num_layers, 3 * config.seglen, frozen_bn=True)
        for parameter in self.backbone.parameters():
            parameter.stop_gradient = True
        shared = {name: getattr(config, name) for name in type(config).model_fields if name not in _OWN}
        sizes = {"feature_names": ["rgb"], "feature_dims": [self.backbone.out_channels]}
        self.predictor = AttentionLSTM(AttentionLSTM.Config(**shared, **sizes))

    def forward_features(self, image: Tensor) -> Tensor:
        """Normalised frames ``(N, S, C, H, W)`` to one feature a frame ``(N, S, D)``."""
        segments, channels = image.shape[1], image.shape[2]
        frames = image.reshape([-1, channels, *image.shape[3:]])  # (N*S, C, H, W)
        return self.backbone(frames).reshape([-1, segments, self.backbone.out_channels])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Frames ``(N, S, C, H, W)`` float32 to ``logits`` and ``probability``, both ``(N, K)``."""
        feature = self.forward_features(image)
        length = paddle.full_like(feature[:, 0, 0], feature.shape[1], dtype="int64")  # (N,): no padding
        return self.predictor(feature, length)

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """That of AttentionLSTM, against ``label`` ``(N, K)``."""
        return self.predictor.loss(outputs, batch)

    def inference(
        self, spec: ModelSpec, on_gpu: bool, to_static: bool, precision: Precision | None = None
    ) -> program.Infer:
        """Both stages, each by its own fastest path; the first takes a few frames at a time."""
        extract = FeatureExtractor(self, spec, on_gpu, to_static, precision=precision)
        second = replace(
            spec, inputs=("rgb", "rgb_length"), cpu_path="eager", cpu_path_reason="faster for few videos"
        )
        tag = program.inference(self.predictor, second, on_gpu, to_static, precision)

        def infer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            feature = extract(inputs["image"])
            return tag({"rgb": feature, "rgb_length": np.full(len(feature), feature.shape[1], np.int64)})

        return infer

    def adapt_pretrained(self, state: dict) -> dict:
        """All of it; a classifier of other tags does not fit and is trained anew."""
        return state


_OWN = ("num_layers", "seglen")  # keys of the first stage


def combined(extractor: Sections, predictor: Sections) -> Sections:
    """One recipe of VideoTag from those of its two stages (2020's ``videotag_test.py`` took both).

    Raises ConfigError where the predictor does not take what a ResNet gives.
    """
    second = predictor.get("MODEL", {})
    if len(second.get("feature_names", ["rgb"])) != 1:
        raise ConfigError("the predictor's recipe has several features; VideoTag gives it one")
    kept = [name for name in VideoTag.Config.model_fields if name not in _OWN]
    first = {k: v for k, v in extractor.get("MODEL", {}).items() if k not in ("name", "num_classes", "topk")}
    model = {**first, **{k: second[k] for k in (*kept, "topk") if k in second}, "name": "VideoTag"}
    return {"MODEL": model, "INFER": dict(extractor.get("INFER", {}))}
