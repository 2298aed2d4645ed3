"""ResNet (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385) with the 2019 parameter names.

The backbone of TSN, TSM and StNet: convolutions without bias, batch norm after each, the stride of a
bottleneck in its 3x3 convolution. Depths 18 and 34 (basic blocks) are an extension for small work.
Shapes: N images, C channels, H x W pixels, D features.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Normal

from models.common.layers import BatchNorm

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def block_name(depth: int, stage: int, block: int) -> str:
    """``res2a``, ``res2b`` …; the long third stage of ResNet-101 and 152 counts ``res4a, res4b1 …``."""
    if depth in (101, 152) and stage == 2:
        return f"res{stage + 2}{'a' if block == 0 else f'b{block}'}"
    return f"res{stage + 2}{chr(ord('a') + block)}"


class ConvBN(nn.Layer):
    """Convolution without bias, batch norm, and ReLU unless ``relu`` is False."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int, name: str, relu: bool, frozen_bn: bool
    ) -> None:
        super().__init__()
        std = (2.0 / (kernel * kernel * c_in)) ** 0.5  # 2019's default for convolutions
        weight = ParamAttr(name=f"{name}_weights", initializer=Normal(0.0, std))
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2D(c_in, c_out, kernel, stride, padding, weight_attr=weight, bias_attr=False)
        bn = "bn_conv1" if name == "conv1" else f"bn{name[3:]}"
        names = (f"{bn}_scale", f"{bn}_offset", f"{bn}_mean", f"{bn}_variance")
        self.bn = BatchNorm(c_out, names, frozen_bn)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x) if self.relu else x


def temporal_shift(x: Tensor, segments: int) -> Tensor:
    """Maps ``(N*S, C, H, W)``, an eighth of the channels from the segment before, the next from that after.

    What would come from outside the S ``segments`` of a video is 0. Paddle has this as one operation, but
    on CPU that takes longer than the 1x1 convolution behind it.
    """
    shape = x.shape[1:]
    channel = shape[1] * shape[2]  # H * W values
    fold = shape[0] // 8 * channel
    values = x.reshape([-1, segments, shape[0] * channel])  # (N, S, C*H*W)
    before, after, rest = values.split([fold, fold, shape[0] * channel - 2 * fold], axis=2)
    # Images of S x fold pixels, because oneDNN's pad knows the last two axes of four only.
    before = F.pad(before.unsqueeze(0), [0, 0, 1, 0]).squeeze(0)[:, :-1]
    after = F.pad(after.unsqueeze(0), [0, 0, 0, 1]).squeeze(0)[:, 1:]
    return paddle.concat([before, after, rest], axis=2).reshape([-1, *shape])


class Residual(nn.Layer):
    """``relu(x' + branch(x))`` where ``x'`` is x, or a 1x1 projection where the shape changes.

    With ``shift`` the branch sees x shifted in time: an eighth of its channels comes from the segment
    before, an eighth from the one after; there are zeros beyond the first and the last.
    """

    def __init__(
        self, c_in: int, width: int, stride: int, bottleneck: bool, name: str, frozen_bn: bool, shift: bool
    ) -> None:
        super().__init__()
        self.shift = shift
        c_out = 4 * width if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        channels = (c_in, width, width, c_out) if bottleneck else (c_in, width, c_out)
        last = len(kernels) - 1
        self.branch = nn.Sequential(
            *(
                ConvBN(
                    channels[i],
                    channels[i + 1],
                    kernels[i],
                    strides[i],
                    f"{name}_branch2{'abc'[i]}",
                    relu=i < last,
                    frozen_bn=frozen_bn,
                )
                for i in range(len(kernels))
            )
        )
        self.shortcut = None
        if c_in != c_out or stride != 1:
            self.shortcut = ConvBN(c_in, c_out, 1, stride, f"{name}_branch1", False, frozen_bn)
        self.out_channels = c_out

    def forward(self, x: Tensor, segments: int) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        if self.shift:
            x = temporal_shift(x, segments)
        return F.relu(shortcut + self.branch(x))


class Stage(nn.Sequential):
    """Residual blocks, of which the first may halve H and W."""

    def __init__(self, *blocks: Residual) -> None:
        super().__init__(*blocks)
        self.out_channels = blocks[-1].out_channels

    def forward(self, x: Tensor, segments: int = 1) -> Tensor:
        for block in self:
            x = block(x, segments)
        return x


class ResNet(nn.Layer):
    """Images ``(N, C, H, W)`` to features ``(N, D)``, D = ``out_channels``, by global average pooling.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: C; 3 times the frames that are stacked.
        frozen_bn: batch norm uses and keeps its stored statistics in training.
        shift: every residual branch sees its input shifted in time (TSM); ``forward`` is then told how
            many successive images are the segments of one video.
    """

    def __init__(
        self, depth: int, in_channels: int = 3, frozen_bn: bool = False, shift: bool = False
    ) -> None:
        super().__init__()
        bottleneck = depth >= 50
        self.conv1 = ConvBN(in_channels, 64, 7, 2, "conv1", True, frozen_bn)
        self.stages = nn.LayerList()
        channels = 64
        for stage, num_blocks in enumerate(DEPTHS[depth]):
            blocks = []
            for block in range(num_blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                name = block_name(depth, stage, block)
                width = 64 * 2**stage
                blocks.append(Residual(channels, width, stride, bottleneck, name, frozen_bn, shift))
                channels = blocks[-1].out_channels
            self.stages.append(Stage(*blocks))
        self.out_channels = channels

    def stem(self, images: Tensor) -> Tensor:
        """``(N, C, H, W)`` to ``(N, 64, H/4, W/4)``."""
        return F.max_pool2d(self.conv1(images), kernel_size=3, stride=2, padding=1)

    def pool(self, maps: Tensor) -> Tensor:
        """``(N, D, H/32, W/32)`` to ``(N, D)``."""
        return F.adaptive_avg_pool2d(maps, 1).flatten(1)

    # Nothing in it depends on values: rewriting each layer for a Program would only take seconds.
    @paddle.jit.not_to_static
    def forward(self, images: Tensor, segments: int = 1) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x, segments)
        return self.pool(x)
