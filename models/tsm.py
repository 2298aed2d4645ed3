"""TSM: Temporal Shift Module (Lin, Gan, Han, ICCV 2019, https://arxiv.org/abs/1811.08383).

TSN, but in front of every residual branch an eighth of the channels takes its values from the segment
before and another eighth from the one after, so that a 2-D ResNet sees motion at no cost.
Shapes: N videos, S segments, C = 3 * seglen channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

from typing import Literal

import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.regularizer import L2Decay

from models.common import classification
from models.common.classification import Classifier
from models.common.resnet import ResNet
from utils.config import Config, key


class TSM(nn.Layer):
    class Config(Config):
        num_classes: int = key(400, gt=0)  # K
        num_layers: Literal[18, 34, 50, 101, 152] = key(50)
        seglen: int = key(1, gt=0)  # consecutive frames a segment, stacked as channels
        dropout_rate: float = key(0.5, ge=0, lt=1)  # of the pooled features
        frozen_bn: bool = key(False)  # batch norm keeps its stored statistics in training

    def __init__(self, config: TSM.Config) -> None:
        super().__init__()
        self.backbone = ResNet(config.num_layers, 3 * config.seglen, config.frozen_bn, shift=True)
        self.dropout_rate = config.dropout_rate
        features = self.backbone.out_channels
        bias = {"learning_rate": 2.0, "regularizer": L2Decay(0.0)}
        self.classifier = Classifier(features, config.num_classes, bound=features**-0.5, **bias)

    def forward_features(self, image: Tensor) -> Tensor:
        """Normalised frames ``(N, S, C, H, W)`` to one feature a segment ``(N, S, D)``."""
        segments, channels = image.shape[1], image.shape[2]
        frames = image.reshape([-1, channels, *image.shape[3:]])  # (N*S, C, H, W)
        return self.backbone(frames, segments).reshape([-1, segments, self.backbone.out_channels])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Frames ``(N, S, C, H, W)`` float32 to ``logits`` and ``probability``, both ``(N, K)``."""
        features = self.forward_features(image)
        # Dropped values are not made up for in training, but all are scaled down elsewhere, as in 2019.
        features = F.dropout(features, self.dropout_rate, training=self.training, mode="downscale_in_infer")
        return self.classifier(features.mean(axis=1))  # (N, S, D) -> (N, K)

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return classification.cross_entropy(outputs, batch)

    def adapt_pretrained(self, state: dict) -> dict:
        return classification.without_classifier(state)
