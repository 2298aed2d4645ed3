"""TSN: Temporal Segment Networks (Wang et al., ECCV 2016, https://arxiv.org/abs/1608.00859).

Each of S sparsely sampled segments goes alone through a 2-D ResNet; the features are averaged over the
segments and classified. As in 2019 the mean is taken before the classifier.
Shapes: N videos, S segments, C = 3 * seglen channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

from typing import Literal

from paddle import Tensor, nn

from models.common import classification
from models.common.classification import Classifier
from models.common.resnet import ResNet
from utils.config import Config, key


class TSN(nn.Layer):
    class Config(Config):
        num_classes: int = key(400, gt=0)  # K
        num_layers: Literal[18, 34, 50, 101, 152] = key(50)
        seglen: int = key(1, gt=0)  # consecutive frames a segment, stacked as channels
        frozen_bn: bool = key(False)  # batch norm keeps its stored statistics in training

    segments_are_independent = True

    def __init__(self, config: TSN.Config) -> None:
        super().__init__()
        self.backbone = ResNet(config.num_layers, 3 * config.seglen, config.frozen_bn)
        features = self.backbone.out_channels
        self.classifier = Classifier(features, config.num_classes, bound=features**-0.5)

    def forward_features(self, image: Tensor) -> Tensor:
        """Normalised frames ``(N, S, C, H, W)`` to one feature a segment ``(N, S, D)``."""
        segments, channels = image.shape[1], image.shape[2]
        frames = image.reshape([-1, channels, *image.shape[3:]])  # (N*S, C, H, W)
        return self.backbone(frames).reshape([-1, segments, self.backbone.out_channels])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Frames ``(N, S, C, H, W)`` float32 to ``logits`` and ``probability``, both ``(N, K)``."""
        return self.classifier(self.forward_features(image).mean(axis=1))  # (N, S, D) -> (N, K)

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return classification.cross_entropy(outputs, batch)

    def adapt_pretrained(self, state: dict) -> dict:
        return classification.without_classifier(state)
