"""TSN: Temporal Segment Networks (Wang et al., ECCV 2016, https://arxiv.org/abs/1608.00859).

Each of S sparsely sampled segments goes alone through a 2-D ResNet; the features are averaged over the
segments and classified. As in 2019 the mean is taken before the classifier.
Shapes: N videos, S segments, C = 3 * seglen channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Uniform

from models.common.resnet import ResNet
from utils import optimizer
from utils.config import Config, key


class TSN(nn.Layer):
    class Config(Config):
        num_classes: int = key(400, gt=0)  # K
        num_layers: Literal[18, 34, 50, 101, 152] = key(50)
        seglen: int = key(1, gt=0)  # consecutive frames a segment, stacked as channels
        frozen_bn: bool = key(False)  # batch norm keeps its stored statistics in training

    HEAD = ("fc_0.w_0", "fc_0.b_0")
    segments_are_independent = True

    def __init__(self, config: TSN.Config) -> None:
        super().__init__()
        self.backbone = ResNet(config.num_layers, 3 * config.seglen, config.frozen_bn)
        weight, bias = self.HEAD
        bound = self.backbone.out_channels**-0.5
        self.fc = nn.Linear(
            self.backbone.out_channels,
            config.num_classes,
            weight_attr=ParamAttr(name=weight, initializer=Uniform(-bound, bound)),
            bias_attr=ParamAttr(name=bias, initializer=Constant(0.0)),
        )

    def forward_features(self, image: Tensor) -> Tensor:
        """Normalised frames ``(N, S, C, H, W)`` to one feature a segment ``(N, S, D)``."""
        segments, channels = image.shape[1], image.shape[2]
        frames = image.reshape([-1, channels, *image.shape[3:]])  # (N*S, C, H, W)
        return self.backbone(frames).reshape([-1, segments, self.backbone.out_channels])

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Frames ``(N, S, C, H, W)`` float32 to ``logits`` and ``probability``, both ``(N, K)``."""
        logits = self.fc(self.forward_features(image).mean(axis=1))  # (N, S, D) -> (N, K)
        # A copy, because Paddle 2.6's to_static loses the gradient of an output that it uses itself.
        return {"probability": F.softmax(logits), "logits": paddle.assign(logits)}

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy in nats against ``label`` ``(N, 1)``, averaged over all N.

        A label of -1 is ignored: it adds 0, but N still counts it, as in 2019.
        """
        each = F.cross_entropy(outputs["logits"], batch["label"], ignore_index=-1, reduction="none")
        return {"loss": each.mean()}

    def adapt_pretrained(self, state: dict) -> dict:
        """ImageNet (or other) weights without the classifier, which is always trained anew."""
        return {name: value for name, value in state.items() if name not in self.HEAD}


class Solver(Config):
    """Momentum; the rate drops after one third and two thirds of the epochs."""

    counter_begin: ClassVar[int] = 0  # 2019's step counter after no step

    learning_rate: float = key(0.01, "TRAIN", gt=0)
    learning_rate_decay: float = key(0.1, "TRAIN", gt=0)
    l2_weight_decay: float = key(1e-4, "TRAIN", ge=0)
    momentum: float = key(0.9, "TRAIN", ge=0)
    total_videos: int = key(..., "TRAIN", gt=0)
    epoch: int = key(..., "TRAIN", ge=0)
    batch_size: int = key(..., "TRAIN", gt=0)

    def build(self, parameters: list[Tensor]):
        steps_per_epoch = int(self.total_videos / self.batch_size + 1)  # one too many when it divides
        boundaries = [self.epoch / 3 * steps_per_epoch, self.epoch * 2 / 3 * steps_per_epoch]
        schedule = optimizer.step_decay(self.learning_rate, self.learning_rate_decay, boundaries)
        return optimizer.momentum(schedule, parameters, self.momentum, self.l2_weight_decay)
