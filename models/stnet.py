"""StNet: Local and Global Spatial-Temporal Modeling (He et al., AAAI 2019, https://arxiv.org/abs/1811.01549).

A segment is a stack of consecutive frames, so that the 2-D ResNet sees local motion. After its second and
third stage a convolution over the segments mixes in their neighbours; behind it a temporal Xception block
looks along the features of all segments, and a maximum over time is classified.
Shapes: N videos, S segments, C = 3 * seglen channels, H x W pixels, D features, K classes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Uniform

from models.common import classification
from models.common.classification import Classifier
from models.common.layers import BatchNorm
from models.common.resnet import ResNet
from utils.config import Config, key


class TemporalBlock(nn.Layer):
    """``x + bn(relu(conv(x)))`` where the convolution spans three neighbouring segments of one pixel."""

    def __init__(self, channels: int, name: str, bn_name: str, frozen_bn: bool) -> None:
        super().__init__()
        attributes = _attributes(name, fan_in=3 * channels)
        self.conv = nn.Conv3D(channels, channels, (3, 1, 1), padding=(1, 0, 0), **attributes)
        self.bn = BatchNorm(channels, _bn_names(bn_name), frozen_bn)

    def forward(self, x: Tensor, segments: int) -> Tensor:
        """Maps ``(N*S, C, H, W)`` to the same shape."""
        maps = x.reshape([-1, segments, *x.shape[1:]])  # (N, S, C, H, W)
        maps = maps.transpose([0, 2, 1, 3, 4])  # (N, C, S, H, W)
        maps = self.bn(F.relu(self.conv(maps)))
        maps = maps.transpose([0, 2, 1, 3, 4])  # (N, S, C, H, W)
        return x + maps.reshape([-1, *x.shape[1:]])  # (N*S, C, H, W)


class TemporalXception(nn.Layer):
    """Depthwise and pointwise convolutions along the segments: ``(N, D, S)`` to ``(N, D/2, S)``."""

    def __init__(self, features: int, frozen_bn: bool) -> None:
        super().__init__()
        half = features // 2
        self.bn = BatchNorm(features, _bn_names("xception_bn"), frozen_bn)
        self.depthwise1 = _along_time("xception_att_conv", features)
        self.pointwise1 = _pointwise("xception_att_2", features, half)
        self.bn1 = BatchNorm(half, _bn_names("xception_bndw"), frozen_bn)
        self.depthwise2 = _along_time("xception_att1", half)
        self.pointwise2 = _pointwise("xception_att1_2", half, half)
        self.shortcut = _pointwise("xception_dw", features, half)
        self.bn2 = BatchNorm(half, _bn_names("xception_bn2"), frozen_bn)
        self.out_channels = half

    def forward(self, features: Tensor) -> Tensor:
        x = self.bn(features.unsqueeze(-1))  # (N, D, S) -> (N, D, S, 1)
        y = F.relu(self.bn1(self.pointwise1(self.depthwise1(x))))  # (N, D/2, S, 1)
        y = self.pointwise2(self.depthwise2(y))
        return F.relu(self.bn2(y + self.shortcut(x))).squeeze(-1)  # (N, D/2, S)


def _along_time(name: str, channels: int) -> nn.Conv2D:
    attributes = _attributes(name, fan_in=3)
    return nn.Conv2D(channels, channels, (3, 1), padding=(1, 0), groups=channels, **attributes)


def _pointwise(name: str, c_in: int, c_out: int) -> nn.Conv2D:
    return nn.Conv2D(c_in, c_out, 1, **_attributes(name, fan_in=c_in))


def _attributes(name: str, fan_in: int) -> dict[str, ParamAttr]:
    bound = (6.0 / fan_in) ** 0.5
    return {
        "weight_attr": ParamAttr(name=f"{name}.w_0", initializer=Uniform(-bound, bound)),
        "bias_attr": ParamAttr(name=f"{name}.b_0", initializer=Constant(0.0)),
    }


def _bn_names(name: str) -> tuple[str, str, str, str]:
    return f"{name}.w_0", f"{name}.b_0", f"{name}.w_1", f"{name}.w_2"


class STNET(nn.Layer):
    class Config(Config):
        num_classes: int = key(400, gt=0)  # K
        num_layers: Literal[18, 34, 50, 101, 152] = key(50)
        seglen: int = key(5, gt=0)  # consecutive frames a segment, stacked as channels
        frozen_bn: bool = key(False)  # batch norm keeps its stored statistics in training

    def __init__(self, config: STNET.Config) -> None:
        super().__init__()
        self.in_channels = 3 * config.seglen
        self.seglen = config.seglen
        self.backbone = ResNet(config.num_layers, self.in_channels, config.frozen_bn)
        stages = self.backbone.stages
        # 2019 numbered these batch norms by how many there were before them, the backbone's included.
        before1 = 1 + _count(stages[0]) + _count(stages[1])
        before2 = before1 + 1 + _count(stages[2])
        self.temporal1 = TemporalBlock(
            stages[1].out_channels, "conv3d_0", f"batch_norm_{before1}", config.frozen_bn
        )
        self.temporal2 = TemporalBlock(
            stages[2].out_channels, "conv3d_1", f"batch_norm_{before2}", config.frozen_bn
        )
        self.xception = TemporalXception(self.backbone.out_channels, config.frozen_bn)
        bound = self.backbone.out_channels**-0.5
        self.classifier = Classifier(self.xception.out_channels, config.num_classes, bound)

    # Nothing in it depends on values: rewriting each layer for a Program would only take seconds.
    @paddle.jit.not_to_static
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Frames ``(N, S, C, H, W)`` float32 to ``logits`` and ``probability``, both ``(N, K)``."""
        segments, backbone = image.shape[1], self.backbone
        x = image.reshape([-1, self.in_channels, *image.shape[3:]])  # (N*S, C, H, W)
        x = backbone.stages[1](backbone.stages[0](backbone.stem(x)))
        x = backbone.stages[2](self.temporal1(x, segments))
        x = backbone.pool(backbone.stages[3](self.temporal2(x, segments)))  # (N*S, D)
        x = x.reshape([-1, segments, backbone.out_channels]).transpose([0, 2, 1])  # (N, D, S)
        return self.classifier(self.xception(x).max(axis=2))  # (N, D/2, S) -> (N, K)

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return classification.cross_entropy(outputs, batch)

    def adapt_pretrained(self, state: dict) -> dict:
        """Weights without the classifier; a first layer for single images is spread over the stack.

        Its mean over the input channels, divided by ``seglen``, serves every channel, as in 2019.
        """
        state = classification.without_classifier(state)
        first = state.get("conv1_weights")
        if first is not None and first.ndim == 4 and first.shape[1] != self.in_channels:
            mean = first.mean(axis=1, keepdims=True) / self.seglen  # (64, 1, 7, 7)
            state["conv1_weights"] = np.repeat(mean, self.in_channels, axis=1)
        return state


def _count(layer: nn.Layer) -> int:
    return sum(isinstance(part, BatchNorm) for part in layer.sublayers())
