"""BMN: Boundary-Matching Network (Lin et al., https://arxiv.org/abs/1907.09702).

Temporal proposals: which parts of a video hold an action. Convolutions over time give each snippet a
probability of being a start and an end; beside them every window [d, t] of the video, which begins with
snippet t and lasts d + 1 snippets, is sampled at ``num_sample`` places and its IoU with an action estimated,
by regression and by classification. Shapes: B videos, F features, T snippets (``tscale``), D durations
(``dscale``), S samples of a window, V windows that are computed, O outputs of the 3-D convolution.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Normal

from models.common import proposals
from models.common.layers import TemporalConv
from utils.config import Config, key

WIDTH, WIDTH_1D, WIDTH_3D, WIDTH_2D = 256, 128, 512, 128
GROUPS = 4
REGRESSION_WEIGHT = 10.0
MASK = "sample_mask"


def sample_mask(
    tscale: int, dscale: int, num_sample: int, num_sample_perbin: int, prop_boundary_ratio: float
) -> np.ndarray:
    """``(T, S, D, T)`` float32: how much of snippet i is in sample s of the window [d, t], at [i, s, d, t].

    A window, longer on both sides by ``prop_boundary_ratio`` of its length, has ``num_sample *
    num_sample_perbin`` points, evenly spaced; each is interpolated between the two snippets around it, and a
    sample is the mean of ``num_sample_perbin`` of them (equation 3 of the paper). What lies outside the
    video is 0, and so are the windows that end outside. As published weights expect, a window of d + 1
    snippets goes from t to t + d, and a point less than one snippet before the video is snippet 0.
    """
    num_points = num_sample * num_sample_perbin
    mask = np.zeros((tscale, num_sample, dscale, tscale), np.float32)
    sample = np.repeat(np.arange(num_sample), num_sample_perbin)[:, None]  # of each point
    for d in range(min(dscale, tscale)):
        start = np.arange(tscale - d)  # of the windows of d + 1 snippets
        beyond = (d + 1.0) * prop_boundary_ratio
        first, last = start - beyond, start + d + beyond
        point = first + (last - first) / (num_points - 1.0) * np.arange(num_points)[:, None]  # (points, t)
        share, whole = np.modf(point)
        below, above = whole.astype(np.int64), np.ceil(point).astype(np.int64)
        weight = np.zeros((tscale, num_sample, tscale - d))
        for snippet, part in ((below, 1.0 - share), (above, share)):
            inside = (snippet >= 0) & (snippet < tscale)
            where = (snippet, np.broadcast_to(sample, point.shape), np.broadcast_to(start, point.shape))
            np.add.at(weight, tuple(index[inside] for index in where), part[inside])
        mask[:, :, d, : tscale - d] = weight / num_sample_perbin
    return mask


def map_conv(c_in: int, c_out: int, kernel: int, name: str) -> nn.Conv2D:
    """A convolution over the windows, ``(B, c_in, D, T)`` to ``(B, c_out, D, T)``."""
    return nn.Conv2D(
        c_in,
        c_out,
        kernel,
        padding=kernel // 2,
        weight_attr=ParamAttr(name=f"{name}.w_0", initializer=Normal(0.0, (2.0 / (c_in * kernel**2)) ** 0.5)),
        bias_attr=ParamAttr(name=f"{name}.b_0", initializer=Constant(0.0)),
    )


class BoundaryMatching(nn.Layer):
    """Features ``(B, 128, T)`` to those of every window ``(B, 128, D, T)``.

    Defined as: samples of each window (a product with the mask, ``(B, 128, S, D, T)``), a 3-D convolution
    over all S of them, ReLU, a 1 x 1 convolution, ReLU. Computed as: the kernel of the 3-D convolution, which
    has nothing between it and the mask, is applied to the T snippets first, and the mask to its outputs; only
    for the windows that end within the video and one that does not: the mask is 0 there, so all of those are
    equal.
    """

    def __init__(self, config: BMN.Config) -> None:
        super().__init__()
        tscale, dscale, num_sample = config.tscale, config.dscale, config.num_sample
        self.tscale, self.dscale, self.num_sample = tscale, dscale, num_sample
        values = sample_mask(tscale, dscale, num_sample, config.num_sample_perbin, config.prop_boundary_ratio)
        self.mask = self.create_parameter(
            [tscale, num_sample * dscale * tscale],
            attr=ParamAttr(name=MASK, initializer=Constant(0.0), trainable=False),
        )
        self.mask.set_value(values.reshape(tscale, -1))
        self.conv3d = nn.Conv3D(
            WIDTH_1D,
            WIDTH_3D,
            (num_sample, 1, 1),
            stride=(num_sample, 1, 1),
            weight_attr=ParamAttr(
                name="PEM_3d1.w_0", initializer=Normal(0.0, (2.0 / (WIDTH_1D * num_sample)) ** 0.5)
            ),
            bias_attr=ParamAttr(name="PEM_3d1.b_0", initializer=Constant(0.0)),
        )
        self.conv = map_conv(WIDTH_3D, WIDTH_2D, 1, "PEM_2d1")
        inside = valid_windows(dscale, tscale).reshape(-1)
        outside = np.flatnonzero(~inside)[:1]
        self.windows = np.concatenate([np.flatnonzero(inside), outside])  # (V,)
        self.row = np.where(inside, np.cumsum(inside) - 1, inside.sum())  # (D * T,), of each window among V

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.conv3d.weight.reshape([WIDTH_3D, WIDTH_1D, self.num_sample])
        kernel = kernel.transpose([1, 2, 0]).reshape([WIDTH_1D, self.num_sample * WIDTH_3D])
        y = paddle.matmul(x.transpose([2, 0, 1]), kernel)  # (T, B, S * O)
        y = y.reshape([self.tscale, -1, self.num_sample, WIDTH_3D]).transpose([0, 2, 1, 3])  # (T, S, B, O)
        y = y.reshape([self.tscale * self.num_sample, -1])  # (T * S, B * O)
        mask = self.mask.reshape([self.tscale * self.num_sample, self.dscale * self.tscale])
        mask = paddle.gather(mask, paddle.to_tensor(self.windows), axis=1)  # (T * S, V)
        y = paddle.matmul(mask, y, transpose_x=True)  # (V, B * O)
        y = F.relu(y.reshape([len(self.windows), -1, WIDTH_3D]) + self.conv3d.bias)  # (V, B, O)
        y = paddle.matmul(y, self.conv.weight.reshape([WIDTH_2D, WIDTH_3D]), transpose_y=True)
        y = F.relu(y + self.conv.bias)  # (V, B, 128)
        y = paddle.index_select(y, paddle.to_tensor(self.row))  # (D * T, B, 128)
        return y.transpose([1, 2, 0]).reshape([-1, WIDTH_2D, self.dscale, self.tscale])


def valid_windows(dscale: int, tscale: int) -> np.ndarray:
    """``(D, T)`` bool: the windows that end within the video."""
    return np.arange(dscale)[:, None] + np.arange(tscale) < tscale


class BMN(nn.Layer):
    class Config(Config):
        tscale: int = key(100, gt=0)  # T, snippets of a video
        dscale: int = key(100, gt=0)  # D, longest window, in snippets
        feat_dim: int = key(400, gt=0, multiple_of=GROUPS)  # F
        prop_boundary_ratio: float = key(0.5, ge=0)  # context on each side, as a part of the window's length
        num_sample: int = key(32, gt=0)  # S
        num_sample_perbin: int = key(3, gt=0)

    def __init__(self, config: BMN.Config) -> None:
        super().__init__()
        self.config = config
        self.base = nn.Sequential(
            TemporalConv(config.feat_dim, WIDTH, 3, "Base_1", GROUPS),
            nn.ReLU(),
            TemporalConv(WIDTH, WIDTH, 3, "Base_2", GROUPS),
            nn.ReLU(),
        )
        self.start, self.end = self._boundary("TEM_s"), self._boundary("TEM_e")
        self.reduce = TemporalConv(WIDTH, WIDTH_1D, 3, "PEM_1d")
        self.matching = BoundaryMatching(config)
        self.evaluation = nn.Sequential(
            map_conv(WIDTH_2D, WIDTH_2D, 3, "PEM_2d2"),
            nn.ReLU(),
            map_conv(WIDTH_2D, WIDTH_2D, 3, "PEM_2d3"),
            nn.ReLU(),
            map_conv(WIDTH_2D, 2, 1, "PEM_2d4"),
            nn.Sigmoid(),
        )

    @staticmethod
    def _boundary(name: str) -> nn.Sequential:
        return nn.Sequential(
            TemporalConv(WIDTH, WIDTH, 3, f"{name}1", GROUPS),
            nn.ReLU(),
            TemporalConv(WIDTH, 1, 1, f"{name}2"),
            nn.Sigmoid(),
        )

    def forward(self, feat: Tensor) -> dict[str, Tensor]:
        """Features ``(B, F, T)`` float32 to probabilities, float32:

        - ``pred_bm`` ``(B, 2, D, T)``: IoU of each window with an action, by regression and classification;
        - ``pred_start`` and ``pred_end`` ``(B, T)``: that an action starts, or ends, in a snippet.
        """
        x = self.base(feat)
        windows = self.evaluation(self.matching(F.relu(self.reduce(x))))
        return {
            "pred_bm": windows,
            "pred_start": self.start(x).squeeze(1),
            "pred_end": self.end(x).squeeze(1),
        }

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Against ``gt_iou_map`` ``(B, D, T)``, ``gt_start`` and ``gt_end`` ``(B, T)``, all in [0, 1].

        ``tem_loss``: cross entropy of starts and ends (equation 6); ``pem_reg_loss``: squares, with as many
        windows of middle and of low IoU drawn as there are of high (equation 8); ``pem_cls_loss``: cross
        entropy of IoU above 0.9. ``loss``: the sum, regression ten times.
        """
        if "draws" not in batch:
            batch = {**batch, "draws": self._draws()}
        tem = self._boundary_loss(outputs["pred_start"], batch, "gt_start")
        tem = tem + self._boundary_loss(outputs["pred_end"], batch, "gt_end")
        inside = paddle.to_tensor(valid_windows(self.config.dscale, self.config.tscale).astype(np.float32))
        regression, confidence = outputs["pred_bm"].unbind(1)

        def tiers(part: dict) -> tuple[Tensor, Tensor, Tensor]:
            return proposals.iou_tiers(part["gt_iou_map"] * inside, inside)

        def positive(part: dict) -> Tensor:
            return (part["gt_iou_map"] * inside > proposals.POSITIVE_IOU).astype("float32")

        difference = regression - batch["gt_iou_map"] * inside
        reg = proposals.sampled_square(difference, batch, tiers, (1.0, 1.0), self.training)
        cls = proposals.balanced_entropy(confidence, batch, positive, inside, self.training)
        loss = tem + REGRESSION_WEIGHT * reg + cls
        return {"loss": loss, "tem_loss": tem, "pem_reg_loss": reg, "pem_cls_loss": cls}

    def _boundary_loss(self, probability: Tensor, batch: dict[str, Tensor], target: str) -> Tensor:
        def positive(part: dict) -> Tensor:
            return (part[target] > 0.5).astype("float32")

        everywhere = paddle.ones([self.config.tscale])
        return proposals.balanced_entropy(probability, batch, positive, everywhere, self.training)

    def _draws(self) -> list[Tensor]:
        """Of windows: they are the same for every video."""
        shape = [self.config.dscale, self.config.tscale]
        return [proposals.draws(shape, self.training) for _ in range(2)]

    def with_other_parts(self, parts: list[dict]) -> list[dict]:
        """The parts of a training batch, each with what it takes to count all of them."""
        return proposals.in_one_batch(parts, [self._draws()] * len(parts))

    def adapt_pretrained(self, state: dict) -> dict:
        """Weights of another training, whatever its grid was; features of another width keep their layer."""
        shapes = {p.name: list(p.shape) for p in self.parameters()}
        return {n: v for n, v in state.items() if n != MASK and list(np.shape(v)) == shapes.get(n)}

    def adapt_weights(self, state: dict) -> dict:
        """Weights may come without the mask, which the recipe gives, or with it as it was created, 4-D."""
        mask = state.get(MASK, self.matching.mask.numpy())
        return {**state, MASK: np.reshape(mask, [len(mask), -1])}
