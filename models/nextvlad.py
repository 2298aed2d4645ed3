"""NeXtVLAD (Lin et al., ECCV workshops 2018, https://arxiv.org/abs/1811.05014).

The rows of a stream are expanded and cut into groups. Each group of a row is softly assigned to clusters,
weighted by its own gate, and what is left after subtracting the cluster's centre is summed over the video
(VLAD). A gate over the hidden values precedes the classifier.
Shapes: N videos, T rows, R rows that are no padding in the whole batch, F values a row, E = expansion * F,
G groups, C clusters, D = E / G, H hidden values, K classes.
"""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from typing import ClassVar

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Assign, Constant, Normal
from paddle.regularizer import L2Decay

from models.common.classification import sigmoid_cross_entropy
from models.common.layers import BatchNorm
from utils import optimizer
from utils.config import Config, key
from utils.errors import ConfigError


def batch_norm(channels: int, number: int) -> BatchNorm:
    """With the names that Fluid gave the ``number``-th one."""
    ends = ("w_0", "b_0", "w_1", "w_2")
    return BatchNorm(channels, tuple(f"batch_norm_{number}.{end}" for end in ends))


def linear(size: int, out: int, weight: str, std: float, bias: str | None = None) -> nn.Linear:
    return nn.Linear(
        size,
        out,
        weight_attr=ParamAttr(name=weight, initializer=Normal(0.0, std)),
        bias_attr=ParamAttr(name=bias, initializer=Constant(0.0)) if bias else False,
    )


class NeXtVLADLayer(nn.Layer):
    """The aggregation of one stream; ``numbers`` are those of its two batch norms."""

    def __init__(self, size: int, config: NeXtVLAD.Config, name: str, numbers: tuple[int, int]) -> None:
        super().__init__()
        expanded, self.groups, self.clusters = config.expansion * size, config.groups, config.cluster_size
        if expanded % self.groups:
            raise ConfigError(
                f"MODEL.groups is {self.groups}, but must divide expansion * {name}_feature_size = {expanded}"
            )
        self.size = expanded // self.groups  # D
        std = sqrt(2 / expanded)
        self.expansion = linear(
            size, expanded, f"{name}_fc_expansion_w", sqrt(2 / size), f"{name}_fc_expansion_b"
        )
        self.attention = linear(
            expanded, self.groups, f"{name}_fc_group_attention_w", std, f"{name}_fc_group_attention_b"
        )
        self.assignment = linear(expanded, self.groups * self.clusters, f"{name}_cluster_weights", std)
        self.assignment_norm = batch_norm(self.groups * self.clusters, numbers[0])
        centres = ParamAttr(name=f"{name}_cluster_weights2", initializer=Normal(0.0, sqrt(2 / self.clusters)))
        self.centres = self.create_parameter([self.clusters, self.size], attr=centres)
        self.norm = batch_norm(self.clusters * self.size, numbers[1])

    def forward(self, rows: Tensor, place: Tensor, num_videos: Tensor, longest: Tensor) -> Tensor:
        """``rows`` (R, F), which lie at ``place`` (R,) of the padded N * T, to ``(N, D * C)``.

        Padding is left out because batch norm must not see it.
        """
        x = self.expansion(rows)  # (R, E)
        gates = F.sigmoid(self.attention(x)).reshape([-1, self.groups, 1])
        assigned = self.assignment_norm(self.assignment(x)).reshape([-1, self.groups, self.clusters])
        assigned = F.softmax(assigned, axis=-1) * gates  # (R, G, C)
        assigned = self._padded(assigned, place, num_videos, longest)  # (N, T * G, C)
        x = self._padded(x.reshape([-1, self.groups, self.size]), place, num_videos, longest)  # (N, T * G, D)
        vlad = paddle.matmul(assigned, x, transpose_x=True)  # (N, C, D)
        # Not centres.t(): DataParallel averages the gradient of a transposed parameter in the wrong order.
        vlad = vlad - assigned.sum(axis=1).unsqueeze(-1) * self.centres
        vlad = vlad / paddle.sqrt((vlad * vlad).sum(axis=2, keepdim=True) + 1e-12)
        return self.norm(vlad.transpose([0, 2, 1]).flatten(1))  # (N, D * C), as the weights of 2019 have it

    @staticmethod
    def _padded(x: Tensor, place: Tensor, num_videos: Tensor, longest: Tensor) -> Tensor:
        """``(R, G, …)`` to ``(N, T * G, …)``, zero where there is padding."""
        groups, size = x.shape[1:]
        zeros = paddle.zeros([num_videos * longest, groups, size], x.dtype)
        return paddle.scatter(zeros, place, x).reshape([num_videos, -1, size])


class NeXtVLAD(nn.Layer):
    class Config(Config):
        num_classes: int = key(3862, gt=0)  # K
        video_feature_size: int = key(1024, gt=0)  # F of rgb
        audio_feature_size: int = key(128, gt=0)
        cluster_size: int = key(128, gt=0)  # C
        hidden_size: int = key(2048, gt=0)  # H
        groups: int = key(8, gt=0)  # G
        expansion: int = key(2, gt=0)
        drop_rate: float = key(0.5, ge=0, lt=1)
        gating_reduction: int = key(8, gt=0)
        eigen_file: str = key("")  # .npy [>= F, 1]: eigenvalues of the PCA that whitened rgb
        l2_penalty: float = key(1e-5, "TRAIN", ge=0)  # on the classifier only

    def __init__(self, config: NeXtVLAD.Config) -> None:
        super().__init__()
        self.config = config
        eigen = ParamAttr(name="eigen_param", initializer=Assign(self._scales(config)), trainable=False)
        self.eigen_param = self.create_parameter([config.video_feature_size], attr=eigen)
        self.video = NeXtVLADLayer(config.video_feature_size, config, "video", (0, 1))
        self.audio = NeXtVLADLayer(config.audio_feature_size, config, "audio", (2, 3))
        width, hidden = config.cluster_size * (self.video.size + self.audio.size), config.hidden_size
        reduced = hidden // config.gating_reduction
        self.hidden1 = linear(width, hidden, "hidden1_fc_weights", sqrt(2 / width))
        self.hidden1_norm = batch_norm(hidden, 4)
        self.gating_fc1 = linear(hidden, reduced, "gating_fc1_weights", sqrt(2 / hidden))
        self.gating_norm = batch_norm(reduced, 5)
        self.gating_fc2 = linear(reduced, hidden, "gating_fc2_weights", sqrt(2 / reduced))
        decay = L2Decay(config.l2_penalty)
        weight = Normal(0.0, sqrt(2 / hidden))
        self.classifier = nn.Linear(
            hidden,
            config.num_classes,
            weight_attr=ParamAttr(name="logits_clf_weights", initializer=weight, regularizer=decay),
            bias_attr=ParamAttr(name="logits_clf_bias", initializer=Constant(0.0), regularizer=decay),
        )

    @staticmethod
    def _scales(config: NeXtVLAD.Config) -> np.ndarray:
        """What undoes the whitening of rgb, from ``eigen_file``; NaN without it, until weights bring it."""
        size = config.video_feature_size
        if not Path(config.eigen_file).is_file():
            return np.full(size, np.nan, np.float32)
        try:
            values = np.load(config.eigen_file, allow_pickle=False)
            return (np.sqrt(values[:size, 0]) + 1e-4).astype(np.float32).reshape(size)
        except (OSError, ValueError, IndexError) as error:
            raise ConfigError(
                f"{config.eigen_file} (MODEL.eigen_file): expected a .npy of at least {size} eigenvalues, "
                f"[{size}, 1] ({error})"
            ) from error

    def forward(
        self, rgb: Tensor, audio: Tensor, rgb_length: Tensor, audio_length: Tensor
    ) -> dict[str, Tensor]:
        """Bytes ``(N, T, F)`` uint8, of which ``length`` ``(N,)`` rows are real, to ``logits`` and
        ``probability``, both ``(N, K)``."""
        parts = [
            self._aggregate(self.video, rgb, rgb_length, self.eigen_param, 0.0),
            # 2019 added half a step to audio only.
            self._aggregate(self.audio, audio, audio_length, None, 4.0 / 512.0),
        ]
        x = paddle.concat(parts, axis=1)
        # As in 2019: nothing is scaled up in training, everything scaled down at inference.
        x = F.dropout(x, self.config.drop_rate, training=self.training, mode="downscale_in_infer")
        x = self.hidden1_norm(self.hidden1(x))  # (N, H)
        gates = F.relu(self.gating_norm(self.gating_fc1(x)))
        x = x * F.sigmoid(self.gating_fc2(gates))
        logits = self.classifier(x)
        # A copy, because Paddle 2.6's to_static loses the gradient of an output that it uses itself.
        return {"probability": F.sigmoid(logits), "logits": paddle.assign(logits)}

    @staticmethod
    def _aggregate(
        layer: NeXtVLADLayer, x: Tensor, length: Tensor, scales: Tensor | None, offset: float
    ) -> Tensor:
        x = x.astype("float32")
        shape = paddle.shape(x)
        num_videos, longest = shape[0], shape[1]
        real = F.sequence_mask(length, longest)  # (N, T)
        place = paddle.nonzero(real.flatten()).flatten()  # (R,)
        rows = paddle.gather(x.reshape([-1, x.shape[-1]]), place)  # (R, F)
        rows = rows * (4.0 / 255.0) + (offset - 2.0)
        if scales is not None:
            rows = rows * scales
        return layer(rows, place, num_videos, longest)

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sigmoid cross entropy in nats against ``label`` ``(N, K)``: summed over K, averaged over N.

        Raises ConfigError when neither a file nor weights brought the eigenvalues.
        """
        if not np.isfinite(outputs["logits"][:1].numpy()).all() and bool(self.eigen_param.isnan().any()):
            raise ConfigError(
                f"MODEL.eigen_file={self.config.eigen_file}: no such file. It is yt8m_pca/eigenvals.npy of "
                "YouTube-8M's PCA archive (data/dataset/README.md); published weights bring it along"
            )
        return sigmoid_cross_entropy(outputs, batch)

    def adapt_pretrained(self, state: dict) -> dict:
        """Everything that fits: with other classes the classifier is trained anew."""
        return state


class Solver(Config):
    """Adam; the rate drops once every ``lr_boundary_examples`` training examples, until ``max_iter``."""

    counter_begin: ClassVar[int] = 0  # 2019's step counter after no step

    learning_rate: float = key(2e-4, "TRAIN", gt=0)
    learning_rate_decay: float = key(0.8, "TRAIN", gt=0)
    lr_boundary_examples: int = key(2_000_000, "TRAIN", gt=0)
    max_iter: int = key(700_000, "TRAIN", gt=0)
    batch_size: int = key(..., "TRAIN", gt=0)

    def build(self, parameters: list[Tensor]):
        every = max(1, self.lr_boundary_examples // self.batch_size)
        boundaries = list(range(every, self.max_iter, every))
        schedule = optimizer.step_decay(self.learning_rate, self.learning_rate_decay, boundaries)
        return optimizer.adam(schedule, parameters)
