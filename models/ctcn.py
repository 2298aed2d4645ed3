"""C-TCN: Deep Concept-wise Temporal Convolutional Networks (Li et al., https://arxiv.org/abs/1908.09442).

Every concept of a video (a column of its features: one class score over time) goes alone, with shared
weights, through a 1-D ResNet-50 and a feature pyramid of eight levels: every kernel is (k, 1), and concepts
meet only in the heads' last convolution. Anchors around each time step of each level are classified and
moved. Shapes: N videos, C channels, T time steps, W concepts, R rows (time steps of all levels), A anchors,
K classes (0 is the background).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Uniform

from models.common.layers import BatchNorm
from utils import optimizer
from utils.anchors import NUM_LEVELS, count, level_sizes
from utils.config import Config, key
from utils.errors import ConfigError

BLOCKS = (3, 4, 6, 3)
NEGATIVES_PER_POSITIVE = 3


class Names:
    """The automatic names of 2019: ``conv2d_<n>`` and ``batch_norm_<n>``, in the order of creation."""

    def __init__(self) -> None:
        self.num_conv = self.num_bn = 0

    def conv(self) -> str:
        self.num_conv += 1
        return f"conv2d_{self.num_conv - 1}"

    def bn(self) -> tuple[str, str, str, str]:
        self.num_bn += 1
        return tuple(f"batch_norm_{self.num_bn - 1}.{part}" for part in ("w_0", "b_0", "w_1", "w_2"))


def temporal_conv(
    c_in: int, c_out: int, kernel: int, stride: int, weight: str, bias: str | None = None
) -> nn.Conv2D:
    """A convolution over time alone: ``(N, c_in, T, W)`` to ``(N, c_out, ceil(T / stride), W)``."""
    bound = (c_in * kernel) ** -0.5
    return nn.Conv2D(
        c_in,
        c_out,
        (kernel, 1),
        (stride, 1),
        (kernel // 2, 0),
        weight_attr=ParamAttr(name=weight, initializer=Uniform(-bound, bound)),
        bias_attr=ParamAttr(name=bias, initializer=Constant(0.0)) if bias else False,
    )


class ConvBN(nn.Layer):
    """Temporal convolution without bias, batch norm, and ReLU unless ``relu`` is False."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int,
        names: Names,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = temporal_conv(c_in, c_out, kernel, stride, f"{names.conv()}.w_0")
        self.bn = BatchNorm(c_out, names.bn())
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x) if self.relu else x


class Bottleneck(nn.Layer):
    """``relu(x' + branch(x))``; x' is x, or a 1x1 projection in the first block of a stage."""

    def __init__(self, c_in: int, width: int, stride: int, project: bool, names: Names) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            ConvBN(c_in, width, 1, 1, names),
            ConvBN(width, width, 3, stride, names),
            ConvBN(width, 4 * width, 1, 1, names, relu=False),
        )
        self.shortcut = ConvBN(c_in, 4 * width, 1, stride, names, relu=False) if project else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.branch(x) + shortcut)


class Pyramid(nn.Layer):
    """The backbone and its feature pyramid: ``(N, 1, T, W)`` to eight levels ``(N, C, T_l, W)``.

    Level l has ceil(T / 2^(l + 2)) time steps. As in 2019 the level of C5 is not smoothed, the others are
    smoothed after the addition, and the levels themselves have no ReLU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        names = Names()
        self.stem = nn.Sequential(
            ConvBN(1, channels // 2, 7, 2, names),
            ConvBN(channels // 2, channels, 7, 2, names),
        )
        self.stages = nn.LayerList()
        c_in = channels
        for i, num_blocks in enumerate(BLOCKS):
            width = channels * 2**i
            blocks = []
            for j in range(num_blocks):
                blocks.append(Bottleneck(c_in, width, 2 if i and not j else 1, j == 0, names))
                c_in = 4 * width
            self.stages.append(nn.Sequential(*blocks))
        width = 8 * channels

        def conv(c_in: int, kernel: int, stride: int = 1) -> nn.Conv2D:
            name = names.conv()
            return temporal_conv(c_in, width, kernel, stride, f"{name}.w_0", f"{name}.b_0")

        self.coarser = nn.LayerList(
            [conv(32 * channels, 3, 2), *(conv(width, 3, 2) for _ in range(NUM_LEVELS - 5))]
        )
        self.lateral = nn.LayerList([conv(c * channels, 1) for c in (32, 16, 8, 4)])
        self.smooth = nn.LayerList([conv(width, 3) for _ in range(3)])

    # Nothing in it depends on values: rewriting each layer for a Program would only take seconds.
    @paddle.jit.not_to_static
    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.stem(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        coarse = [self.coarser[0](x)]
        for conv in self.coarser[1:]:
            coarse.append(conv(F.relu(coarse[-1])))
        merged = self.lateral[0](x)
        fine = [merged]
        for i, smooth in enumerate(self.smooth):
            x = maps[-2 - i]
            merged = self.lateral[1 + i](x) + stretch(merged, x.shape[2])
            fine.insert(0, smooth(merged))
        return fine + coarse


def stretch(x: Tensor, length: int) -> Tensor:
    """Linear interpolation over time, the ends kept in place: ``(N, C, T, W)`` to ``(N, C, length, W)``.

    One matrix product; image resizing over both axes, as in 2019, takes several times as long. Without the
    reshaping, Paddle 3.3's predictor gives other numbers.
    """
    channels, steps, concepts = x.shape[1:]
    if steps == length:
        return x
    position = np.arange(length) * ((steps - 1) / max(length - 1, 1))
    weight = np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(steps)))  # (length, T)
    stretched = paddle.matmul(paddle.to_tensor(weight.astype(np.float32)), x.reshape([-1, steps, concepts]))
    return stretched.reshape([-1, channels, length, concepts])


class CTCN(nn.Layer):
    class Config(Config):
        num_classes: int = key(201, gt=1)  # K, with the background
        img_size: int = key(512, gt=0)  # time steps a video is resized to
        concept_size: int = key(402, gt=0)  # W
        num_anchors: int = key(7, ge=1, le=7)  # at each time step
        total_num_anchors: int = key(1785, gt=0)  # A
        channels: int = key(64, gt=1, multiple_of=2)  # of the first stage; all others are multiples of it
        dropout_rate: float = key(0.5, ge=0, lt=1)  # of the levels, for each head apart

    def __init__(self, config: CTCN.Config) -> None:
        super().__init__()
        anchors = count(config.img_size, config.num_anchors)
        if config.total_num_anchors != anchors:
            raise ConfigError(
                f"MODEL.total_num_anchors is {config.total_num_anchors}, but img_size {config.img_size} with "
                f"num_anchors {config.num_anchors} at each time step gives {anchors}"
            )
        self.config = config
        self.sizes = level_sizes(config.img_size)
        self.pyramid = Pyramid(config.channels)
        self.loc_conv1, self.loc_conv2 = self._head("loc", 4 * config.channels, 2)
        self.cls_conv1, self.cls_conv2 = self._head("cls", 8 * config.channels, config.num_classes)

    def _head(self, name: str, width: int, values: int) -> tuple[nn.Conv2D, nn.Conv2D]:
        """The two convolutions of a head; the second, (1, W), sees all concepts of a time step."""
        config = self.config
        first = temporal_conv(
            8 * config.channels, width, 3, 1, f"{name}_pred_conv1_weights", f"{name}_pred_conv1_bias"
        )
        bound = (width * config.concept_size) ** -0.5
        second = nn.Conv2D(
            width,
            config.num_anchors * values,
            (1, config.concept_size),
            weight_attr=ParamAttr(name=f"{name}_pred_conv2_weights", initializer=Uniform(-bound, bound)),
            bias_attr=ParamAttr(name=f"{name}_pred_conv2_bias", initializer=Constant(0.0)),
        )
        return first, second

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features ``(N, 1, T, W)`` float32 to

        - ``loc`` ``(N, A, 2)``: centre and width of each anchor's segment, encoded, in [-5, 5];
        - ``probability`` and ``logits`` ``(N, A, K)``.

        Anchors are in the order of ``utils.anchors``: level, time step, anchor.
        """
        loc, cls = [], []
        for level in self.pyramid(image):
            loc.append(self._drop(level))
            cls.append(self.cls_conv1(self._drop(level)))
        loc = 10.0 * F.sigmoid(self._locations(loc)) - 5.0
        logits = self._classes(cls)
        # A copy, because Paddle 2.6's to_static loses the gradient of an output that it uses itself.
        return {"loc": loc, "probability": F.softmax(logits), "logits": paddle.assign(logits)}

    def _drop(self, level: Tensor) -> Tensor:
        return F.dropout(level, self.config.dropout_rate, training=self.training, mode="downscale_in_infer")

    def _classes(self, levels: list[Tensor]) -> Tensor:
        """The second convolution on the rows of all levels in one product: ``(N, A, K)``.

        Its kernel covers all concepts, so it is a matrix of ``(7 K, C * W)``; level by level it would be read
        eight times (1.2 GB at full size).
        """
        rows = join_rows(levels)
        logits = paddle.matmul(rows, self.cls_conv2.weight.flatten(1), transpose_y=True)  # (N * R, 7 K)
        logits = logits + self.cls_conv2.bias
        return logits.reshape([-1, self.config.total_num_anchors, self.config.num_classes])

    def _locations(self, levels: list[Tensor]) -> Tensor:
        """Both convolutions, which have nothing between them, as one over three time steps: ``(N, A, 2)``.

        It has 14 outputs where the first convolution alone has 256. As its three taps are applied to the
        rows of all levels at once, their results are then shifted and added level by level.
        """
        first, second = self.loc_conv1.weight, self.loc_conv2.weight  # (M, C, 3, 1), (14, M, 1, W)
        outputs, middle, _, concepts = second.shape
        product = paddle.matmul(
            first.reshape([middle, -1]),
            second.transpose([1, 0, 2, 3]).reshape([middle, -1]),
            transpose_x=True,
        )  # (C * 3, 14 * W)
        taps = product.reshape([-1, 3, outputs, concepts]).transpose([1, 2, 0, 3])  # (3, 14, C, W)
        taps = taps.reshape([3 * outputs, -1])
        bias = (second.sum(axis=[2, 3]) * self.loc_conv1.bias).sum(axis=1) + self.loc_conv2.bias  # (14,)
        parts = paddle.matmul(join_rows(levels), taps, transpose_y=True)  # (N * R, 3 * 14)
        parts = parts.reshape([-1, sum(self.sizes), 3, outputs])
        rows, start = [], 0
        nothing = paddle.zeros_like(parts[:, :1, 0])  # beyond the ends of a level
        for size in self.sizes:
            before, here, after = parts[:, start : start + size].unbind(axis=2)  # (N, T_l, 14) each
            before = paddle.concat([nothing, before], axis=1)[:, :size]
            after = paddle.concat([after, nothing], axis=1)[:, 1:]
            rows.append(before + here + after)
            start += size
        return (paddle.concat(rows, axis=1) + bias).reshape([-1, self.config.total_num_anchors, 2])

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Against ``loc_targets`` ``(N, A, 2)`` and ``cls_targets`` ``(N, A)`` int64, 0 for the background.

        ``loc_loss``: twice the smooth L1 of the positive anchors; ``cls_loss``: cross entropy in nats of the
        positive anchors and of three times as many negative ones, in each video those of the highest cross
        entropy. Both are sums over the batch, divided by its positive anchors; ``loss`` is their sum.
        A negative class is ignored.
        """
        classes = batch["cls_targets"]
        positive = (classes > 0).astype("float32")  # (N, A)
        num_positive = paddle.clip(positive.sum(), min=1.0)
        distance = F.smooth_l1_loss(outputs["loc"], batch["loc_targets"], reduction="none").sum(axis=-1)
        loc_loss = 2.0 * (distance * positive).sum() / num_positive
        entropy = F.cross_entropy(
            outputs["logits"], paddle.clip(classes, min=0).unsqueeze(-1), reduction="none"
        ).squeeze(-1)
        entropy = entropy * (classes >= 0).astype("float32")
        rank = paddle.argsort(paddle.argsort(entropy.detach() * (positive - 1.0), axis=1), axis=1)
        wanted = NEGATIVES_PER_POSITIVE * positive.sum(axis=1, keepdim=True)
        hard = (rank.astype("float32") < wanted).astype("float32")
        cls_loss = (entropy * paddle.maximum(positive, hard)).sum() / num_positive
        return {"loss": loc_loss + cls_loss, "loc_loss": loc_loss, "cls_loss": cls_loss}

    def mean_over(self, batch: dict[str, Tensor]) -> int:
        """What the losses are means over: the positive anchors of a batch."""
        return int((batch["cls_targets"] > 0).sum())

    def adapt_pretrained(self, state: dict) -> dict:
        """Weights of another training, without what sees the classes or the concepts, if these differ."""
        shapes = {p.name: list(p.shape) for p in self.parameters()}
        heads = ("loc_pred_conv2", "cls_pred_conv2")
        return {
            name: value
            for name, value in state.items()
            if not name.startswith(heads) or list(np.shape(value)) == shapes.get(name)
        }


def join_rows(levels: list[Tensor]) -> Tensor:
    """``(N, C, T_l, W)`` of all levels to one row a time step: ``(N * R, C * W)``."""
    rows = paddle.concat([level.transpose([0, 2, 1, 3]) for level in levels], axis=1)  # (N, R, C, W)
    return rows.reshape([-1, rows.shape[2] * rows.shape[3]])


class Solver(Config):
    """Momentum; the rate drops once, after ``lr_decay_iter`` steps."""

    counter_begin: ClassVar[int] = 0  # 2019's step counter after no step

    learning_rate: float = key(0.0005, "TRAIN", gt=0)
    learning_rate_decay: float = key(0.1, "TRAIN", gt=0)
    lr_decay_iter: int = key(9000, "TRAIN", gt=0)
    l2_weight_decay: float = key(1e-4, "TRAIN", ge=0)
    momentum: float = key(0.9, "TRAIN", ge=0)

    def build(self, parameters: list[Tensor]):
        schedule = optimizer.step_decay(self.learning_rate, self.learning_rate_decay, [self.lr_decay_iter])
        return optimizer.momentum(schedule, parameters, self.momentum, self.l2_weight_decay)
