"""Non-local networks (Wang et al., CVPR 2018, https://arxiv.org/abs/1711.07971): C2D and I3D ResNets.

A ResNet over clips. Non-local blocks in its middle stages let every position in space and time look at
every other one: a weighted mean over all positions, with weights from the similarity of two embeddings.
C2D has no other operation over time but a pooling; I3D also convolves over time.

Parameters have the 5-D kernels of 2019, ``(out, in, k_t, k, k)``. Inside, the frames of a clip lie along
the batch axis, and every convolution runs as a 2-D one: the same sums, and for C2D on CPUs 1.3 times as
fast as 3-D convolutions (``python -m benchmark.convolutions``).
Shapes: N clips, T frames, C channels, H x W pixels, P = T * H * W positions, Q pooled ones, D features,
K classes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Initializer, Normal, Uniform
from paddle.regularizer import L2Decay

from models.common.layers import BatchNorm
from models.common.resnet import DEPTHS, block_name
from utils import optimizer
from utils.config import Config, key
from utils.errors import ConfigError

# video_arc_choice -> depth, and whether it is inflated (I3D).
ARCHITECTURES = {1: (50, False), 2: (50, True), 3: (101, False), 4: (101, True)}
GROUP_FRAMES = 4  # with affine layers, res3's blocks look at so many frames at a time


class NonLocalConfig(Config):
    num_classes: int = key(400, gt=0)  # K
    depth: Literal[50, 101] = key(50, "MODEL")
    video_arc_choice: Literal[1, 2, 3, 4] = key(1, "MODEL")
    dataset: str = key("kinetics400", "MODEL")  # a name for the log in 2019; no effect
    use_affine: bool = key(False, "MODEL")  # fixed scale and offset instead of batch norm
    frozen_bn: bool = key(False)  # batch norm keeps its stored statistics in training
    bn_momentum: float = key(0.9, "MODEL", ge=0, le=1)
    bn_epsilon: float = key(1e-5, "MODEL", gt=0)
    bn_init_gamma: float = key(0.0, "MODEL")  # first scale of the last batch norm of a residual branch
    fc_init_std: float = key(0.01, "MODEL", ge=0)
    weight_decay_bn: float = key(0.0, "TRAIN", ge=0)
    dropout_rate: float = key(0.0, "TRAIN", ge=0, lt=1)  # in every mode, as in 2019

    num_groups: int = key(1, "RESNETS", gt=0)  # of the 3x3 convolutions
    width_per_group: int = key(64, "RESNETS", gt=0)
    trans_func: Literal["bottleneck_transformation_3d"] = key("bottleneck_transformation_3d", "RESNETS")

    layer_mod: int = key(2, "NONLOCAL", gt=0)  # a non-local block after every so many residual blocks
    conv3_nonlocal: bool = key(True, "NONLOCAL")
    conv4_nonlocal: bool = key(True, "NONLOCAL")
    conv_init_std: float = key(0.01, "NONLOCAL", ge=0)
    no_bias: Literal[0, 1] = key(0, "NONLOCAL")
    use_maxpool: bool = key(True, "NONLOCAL")
    use_softmax: bool = key(True, "NONLOCAL")
    use_scale: bool = key(True, "NONLOCAL")
    use_zero_init_conv: bool = key(False, "NONLOCAL")
    use_bn: bool = key(True, "NONLOCAL")
    nonlocal_use_affine: bool = key(False, "NONLOCAL", called="use_affine")
    nonlocal_bn_momentum: float = key(0.9, "NONLOCAL", called="bn_momentum", ge=0, le=1)
    nonlocal_bn_epsilon: float = key(1e-5, "NONLOCAL", called="bn_epsilon", gt=0)
    nonlocal_bn_init_gamma: float = key(0.0, "NONLOCAL", called="bn_init_gamma")

    @property
    def num_layers(self) -> int:
        return self.depth


class Affine(nn.Layer):
    """Scale and offset a channel of ``(N, C, H, W)``: batch norm without statistics."""

    def __init__(self, channels: int, names: tuple[str, str], scale: float, weight_decay: float) -> None:
        super().__init__()
        values = zip(names, (scale, 0.0), strict=True)
        self.weight, self.bias = (
            self.create_parameter(
                [channels],
                attr=ParamAttr(name=name, initializer=Constant(value), regularizer=L2Decay(weight_decay)),
            )
            for name, value in values
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.reshape([1, -1, 1, 1]) + self.bias.reshape([1, -1, 1, 1])


def norm(config: NonLocalConfig, channels: int, name: str, scale: float = 1.0) -> nn.Layer:
    """What follows each convolution of the ResNet."""
    if config.use_affine:
        return Affine(channels, (f"{name}_scale", f"{name}_offset"), scale, config.weight_decay_bn)
    return BatchNorm(
        channels,
        (f"{name}_scale", f"{name}_offset", f"{name}_mean", f"{name}_variance"),
        config.frozen_bn,
        momentum=config.bn_momentum,
        epsilon=config.bn_epsilon,
        scale=scale,
        weight_decay=config.weight_decay_bn,
    )


class Conv(nn.Layer):
    """A convolution over time and space of clips that lie along the batch axis, ``(N*T, C, H, W)``.

    The kernel is ``(out, in / groups, kernel_t, kernel, kernel)``; over time it keeps the length. One over
    several frames has neither bias nor groups.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        name: str,
        initializer: Initializer,
        kernel: int = 1,
        stride: int = 1,
        kernel_t: int = 1,
        groups: int = 1,
        bias: str = "",
    ) -> None:
        super().__init__()
        shape = [c_out, c_in // groups, kernel_t, kernel, kernel]
        self.weight = self.create_parameter(shape, attr=ParamAttr(name=name, initializer=initializer))
        self.bias = None
        if bias:
            self.bias = self.create_parameter(
                [c_out], attr=ParamAttr(name=bias, initializer=Constant(0.0)), is_bias=True
            )
        self.stride, self.padding, self.groups = stride, (kernel - 1) // 2, groups

    def forward(self, x: Tensor, frames: int) -> Tensor:
        c_out, c_in, kernel_t, height, width = self.weight.shape
        if kernel_t == 1:
            return self._conv2d(x, self.weight.squeeze(2))
        if c_in < c_out:  # few inputs: each frame sees those around it as further channels
            weight = self.weight.transpose([0, 2, 1, 3, 4])
            weight = weight.reshape([c_out, kernel_t * c_in, height, width])
            around = [shifted(x, frames, i - kernel_t // 2) for i in range(kernel_t)]
            return self._conv2d(paddle.concat(around, axis=1), weight)  # (N*T, k_t * C, H, W)
        weight = self.weight.transpose([2, 0, 1, 3, 4]).reshape([kernel_t * c_out, c_in, height, width])
        parts = self._conv2d(x, weight).split(kernel_t, axis=1)  # what each frame adds to those around it
        return sum(shifted(part, frames, i - kernel_t // 2) for i, part in enumerate(parts))

    def _conv2d(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


def shifted(x: Tensor, frames: int, offset: int) -> Tensor:
    """Each frame of ``(N*T, C, H, W)`` replaced by that ``offset`` later, zeros beyond the clip's ends."""
    if offset == 0:
        return x
    channels, height, width = x.shape[1:]
    x = x.reshape([-1, frames, channels, height, width])
    missing = min(abs(offset), frames)
    zeros = paddle.zeros_like(x[:, :missing])
    if missing == frames:
        x = zeros
    elif offset > 0:
        x = paddle.concat([x[:, offset:], zeros], axis=1)
    else:
        x = paddle.concat([zeros, x[:, :offset]], axis=1)
    return x.reshape([-1, channels, height, width])


class ConvNorm(nn.Layer):
    """Convolution without bias, batch norm or affine layer, and ReLU unless ``relu`` is False."""

    def __init__(
        self,
        config: NonLocalConfig,
        c_in: int,
        c_out: int,
        name: str,
        kernel: int = 1,
        stride: int = 1,
        kernel_t: int = 1,
        groups: int = 1,
        scale: float = 1.0,
        relu: bool = True,
    ) -> None:
        super().__init__()
        bound = (6.0 / (c_in // groups * kernel_t * kernel * kernel)) ** 0.5
        initializer = Uniform(-bound, bound)
        self.conv = Conv(c_in, c_out, f"{name}_weights", initializer, kernel, stride, kernel_t, groups)
        self.norm = norm(config, c_out, "bn_conv1" if name == "conv1" else f"bn{name[3:]}", scale)
        self.relu = relu

    def forward(self, x: Tensor, frames: int) -> Tensor:
        x = self.norm(self.conv(x, frames))
        return F.relu(x) if self.relu else x


class Bottleneck(nn.Layer):
    """``relu(x' + branch(x))``: 1x1 (over three frames in I3D), 3x3 with the stride, 1x1."""

    def __init__(
        self, config: NonLocalConfig, c_in: int, stage: int, stride: int, kernel_t: int, name: str
    ) -> None:
        super().__init__()
        groups = config.num_groups
        inner = groups * config.width_per_group * 2**stage
        c_out = 256 * 2**stage
        self.a = ConvNorm(config, c_in, inner, f"{name}_branch2a", kernel_t=kernel_t)
        self.b = ConvNorm(config, inner, inner, f"{name}_branch2b", 3, stride, groups=groups)
        gamma = config.bn_init_gamma
        self.c = ConvNorm(config, inner, c_out, f"{name}_branch2c", scale=gamma, relu=False)
        self.shortcut = None
        if c_in != c_out or stride != 1:
            self.shortcut = ConvNorm(config, c_in, c_out, f"{name}_branch1", stride=stride, relu=False)
        self.out_channels = c_out

    def forward(self, x: Tensor, frames: int) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x, frames)
        return F.relu(shortcut + self.c(self.b(self.a(x, frames), frames), frames))


class NonLocalBlock(nn.Layer):
    """``x + W y`` (equation 6), where y at each position is a mean of g over all positions (equation 1).

    Weights are the softmax of theta . phi (embedded Gaussian, equation 4) or, without ``use_softmax``,
    theta . phi over the number of positions (dot product). phi and g see the max-pooled input.
    With ``group_frames`` a position sees that many frames around it only.
    """

    def __init__(self, config: NonLocalConfig, channels: int, name: str, group_frames: int = 0) -> None:
        super().__init__()
        self.inner = channels // 2
        self.group_frames = group_frames
        self.use_maxpool, self.use_softmax = config.use_maxpool, config.use_softmax
        self.scale = self.inner**-0.5 if config.use_scale and config.use_softmax else 1.0
        initializer = Normal(0.0, config.conv_init_std)
        last = Constant(0.0) if config.use_zero_init_conv else initializer

        def conv(c_in: int, c_out: int, part: str, first_values: Initializer) -> Conv:
            bias = "" if config.no_bias else f"{name}_{part}_b"
            return Conv(c_in, c_out, f"{name}_{part}_w", first_values, bias=bias)

        self.theta = conv(channels, self.inner, "theta", initializer)
        self.phi = conv(channels, self.inner, "phi", initializer)
        self.g = conv(channels, self.inner, "g", initializer)
        self.out = conv(self.inner, channels, "out", last)
        self.norm = None
        gamma, decay = config.nonlocal_bn_init_gamma, config.weight_decay_bn
        if config.use_bn:
            self.norm = BatchNorm(
                channels,
                (f"{name}_bn_scale", f"{name}_bn_offset", f"{name}_bn_mean", f"{name}_bn_variance"),
                config.frozen_bn,
                momentum=config.nonlocal_bn_momentum,
                epsilon=config.nonlocal_bn_epsilon,
                scale=gamma,
                weight_decay=decay,
            )
        elif config.nonlocal_use_affine:
            self.norm = Affine(channels, (f"{name}_affine_s", f"{name}_affine_b"), gamma, decay)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        height, width = x.shape[2:]
        if self.group_frames and frames > self.group_frames:
            if frames % self.group_frames:
                raise ConfigError(
                    f"with MODEL.use_affine the blocks of res3 see {self.group_frames} frames at a time: "
                    f"video_length {2 * frames} must be a multiple of {2 * self.group_frames}"
                )
            frames = self.group_frames
        pooled = F.max_pool2d(x, 2, 2) if self.use_maxpool else x
        theta = self._positions(self.theta(x, frames), frames)  # (N, P, D)
        phi = self._positions(self.phi(pooled, frames), frames)  # (N, Q, D)
        g = self._positions(self.g(pooled, frames), frames)  # (N, Q, D)
        if self.scale != 1.0:
            theta = theta * self.scale  # smaller than the scores
        scores = paddle.matmul(theta, phi, transpose_y=True)  # (N, P, Q)
        weights = F.softmax(scores) if self.use_softmax else scores / phi.shape[1]
        y = paddle.matmul(weights, g)  # (N, P, D)
        y = y.reshape([-1, height * width, self.inner]).transpose([0, 2, 1])  # (N*T, D, H*W)
        y = self.out(y.reshape([-1, self.inner, height, width]), frames)  # (N*T, C, H, W)
        return x + (y if self.norm is None else self.norm(y))

    def _positions(self, x: Tensor, frames: int) -> Tensor:
        channels, height, width = x.shape[1:]
        x = x.reshape([-1, channels, height * width]).transpose([0, 2, 1])  # (N*T, H*W, D)
        return x.reshape([-1, frames * height * width, channels])


class NonLocal(nn.Layer):
    """Clips ``(N, 3, T, H, W)`` to class probabilities."""

    Config = NonLocalConfig
    HEAD = ("pred_w", "pred_b")

    def __init__(self, config: NonLocalConfig) -> None:
        super().__init__()
        depth, inflated = ARCHITECTURES[config.video_arc_choice]
        if depth != config.depth:
            raise ConfigError(
                f"MODEL.video_arc_choice {config.video_arc_choice} is a ResNet-{depth}, but MODEL.depth is "
                f"{config.depth}"
            )
        self.dropout_rate = config.dropout_rate
        self.conv1 = ConvNorm(config, 3, 64, "conv1", 7, 2, kernel_t=5 if inflated else 1)
        self.stages = nn.LayerList()
        channels = 64
        for stage, num_blocks in enumerate(DEPTHS[depth]):
            blocks = nn.LayerList()
            for block in range(num_blocks):
                stride = 2 if block == 0 and stage > 0 else 1
                kernel_t = 3 if inflated and looks_over_time(stage, block) else 1
                name = block_name(depth, stage, block)
                blocks.append(Bottleneck(config, channels, stage, stride, kernel_t, name))
                channels = blocks[-1].out_channels
                if non_local := non_local_block(config, stage, block, channels):
                    blocks.append(non_local)
            self.stages.append(blocks)
        self.pred_w = self.create_parameter(
            [channels, config.num_classes],
            attr=ParamAttr(name="pred_w", initializer=Normal(0.0, config.fc_init_std)),
        )
        self.pred_b = self.create_parameter(
            [config.num_classes], attr=ParamAttr(name="pred_b", initializer=Constant(0.0)), is_bias=True
        )

    # Nothing in it depends on values: rewriting each layer for a Program would only take seconds.
    @paddle.jit.not_to_static
    def forward_features(self, image: Tensor) -> Tensor:
        """Clips ``(N, 3, T, H, W)`` to features ``(N, D, h, w)``; h = w = 1 up to 229 px, 2 at 256 px."""
        channels, frames, height, width = image.shape[1:]
        if frames < 2:
            raise ConfigError(f"video_length is {frames}: this network needs 2 frames or more")
        x = image.transpose([0, 2, 1, 3, 4]).reshape([-1, channels, height, width])  # (N*T, 3, H, W)
        x = self.conv1(x, frames)  # (N*T, 64, H/2, W/2)
        x = F.max_pool2d(x, kernel_size=3, stride=2)
        for stage, blocks in enumerate(self.stages):
            for block in blocks:
                x = block(x, frames)
            if stage == 0:
                x, frames = pool_time(x, frames)  # (N*T/2, 256, H/4, W/4)
        channels, height, width = x.shape[1:]  # D, H/32, W/32
        x = x.reshape([-1, frames, channels, height, width]).mean(axis=1)  # (N, D, H/32, W/32)
        return F.avg_pool2d(x, (min(7, height), min(7, width)), stride=1)  # (N, D, h, w)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Clips ``(N, 3, T, H, W)`` float32 to ``probability`` and ``log_probability``, both ``(N, K)``.

        Where there are several features they are classified one by one, by the same weights, and the
        probabilities are averaged: 2019's fully convolutional form of evaluation.
        """
        x = self.forward_features(image)
        x = F.dropout(x, self.dropout_rate, training=self.training, mode="downscale_in_infer")
        x = x.flatten(2).transpose([0, 2, 1])  # (N, places, D)
        logits = paddle.matmul(x, self.pred_w) + self.pred_b  # (N, places, K)
        log_probability = paddle.logsumexp(F.log_softmax(logits), axis=1) - float(np.log(logits.shape[1]))
        return {"probability": F.softmax(logits).mean(axis=1), "log_probability": log_probability}

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy in nats against ``label`` ``(N, 1)``, averaged over all N."""
        return {"loss": F.nll_loss(outputs["log_probability"], batch["label"].flatten())}

    def adapt_weights(self, state: dict) -> dict:
        """2019's head of evaluation, a 1x1x1 convolution (K, D, 1, 1, 1), as that of training, (D, K)."""
        weight = state.get("pred_w")
        if weight is None or weight.ndim != 5:
            return state
        return {**state, "pred_w": weight.reshape(weight.shape[:2]).T}

    def adapt_pretrained(self, state: dict) -> dict:
        """Weights without the classifier; 2-D kernels are inflated: repeated over time, divided by it."""
        shapes = {parameter.name: parameter.shape for parameter in self.parameters()}
        adapted = {}
        for name, value in state.items():
            if name in self.HEAD:
                continue
            shape = shapes.get(name, [])
            if len(shape) == 5 and value.ndim == 4:
                value = np.repeat(value[:, :, None], shape[2], axis=2) / value.dtype.type(shape[2])
            adapted[name] = value
        return adapted


def looks_over_time(stage: int, block: int) -> bool:
    """Whether I3D convolves over time here: all of res2, every second block of res3 to res5."""
    return stage == 0 or block % 2 == (1 if stage == 3 else 0)


def non_local_block(config: NonLocalConfig, stage: int, block: int, channels: int) -> NonLocalBlock | None:
    """The non-local block after this residual block, or None."""
    wanted = {1: config.conv3_nonlocal, 2: config.conv4_nonlocal}.get(stage, False)
    every = config.layer_mod * 4 - 1 if stage == 2 and config.depth == 101 else config.layer_mod
    if not wanted or block % every != every - 1:
        return None
    grouped = config.use_affine and stage == 1
    name = f"nonlocal_conv{stage + 2}_{'group_' if grouped else ''}{block}"
    return NonLocalBlock(config, channels, name, GROUP_FRAMES if grouped else 0)


def pool_time(x: Tensor, frames: int) -> tuple[Tensor, int]:
    """The larger of each two frames of ``(N*T, C, H, W)``; an odd last one goes."""
    channels, height, width = x.shape[1:]
    half = frames // 2
    x = x.reshape([-1, frames, channels, height, width])
    x = x[:, : 2 * half].reshape([-1, 2, channels, height, width])
    return paddle.maximum(x[:, 0], x[:, 1]), half


class Solver(Config):
    """Momentum, Nesterov's by default; the rate drops after each of ``step_sizes`` iterations."""

    counter_begin: ClassVar[int] = 0  # 2019's step counter after no step

    learning_rate: float = key(0.01, "TRAIN", gt=0)
    learning_rate_decay: float = key(0.1, "TRAIN", gt=0)
    step_sizes: list[int] = key([150000, 150000, 100000], "TRAIN")
    weight_decay: float = key(1e-4, "TRAIN", ge=0)
    momentum: float = key(0.9, "TRAIN", ge=0)
    nesterov: bool = key(True, "TRAIN")
    # Of 2019, which did not use them either: the epochs end a run, and momentum is never rescaled.
    max_iter: int = key(400000, "TRAIN", gt=0)
    scale_momentum: bool = key(True, "TRAIN")

    def build(self, parameters: list[Tensor]):
        boundaries = np.cumsum(self.step_sizes).tolist()
        schedule = optimizer.step_decay(self.learning_rate, self.learning_rate_decay, boundaries)
        return optimizer.momentum(
            schedule, parameters, self.momentum, self.weight_decay, nesterov=self.nesterov
        )
