"""AttentionLSTM: a bidirectional LSTM over a video's features, pooled by attention.

The LSTM of "Beyond Short Snippets" (Ng et al., CVPR 2015, https://arxiv.org/abs/1503.08909), walked in
both directions, and a learnt weight for every frame, as in Attention Clusters (Long et al., CVPR 2018).
Each feature stream has a network of its own; they meet in the classifier.
Shapes: N videos, T frames of the longest, D features of a frame, E = embedding_size, H = lstm_size,
K classes. Frames behind a video's end take no part.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from pydantic import PositiveFloat, PositiveInt

from models.common.layers import linear
from models.common.lstm import PeepholeLSTM
from models.common.ragged import inside_mask
from utils import optimizer
from utils.config import Config, key
from utils.errors import ConfigError


class StreamNames(NamedTuple):
    """2019's names of the layers of one feature stream, without ``.w_0`` and ``.b_0``."""

    embedding: str
    forward_projection: str
    forward: str
    backward_projection: str
    backward: str
    attention: str


class Stream(nn.Layer):
    """One feature: embedding, LSTM in both directions, attention over the frames: ``(N, 2H)``.

    ``bias`` is that of the LSTM's projections and of the attention.
    """

    def __init__(
        self, size: int, embedding: int, lstm: int, drop_rate: float, names: StreamNames, bias: bool
    ) -> None:
        super().__init__()
        self.drop_rate = drop_rate
        self.embedding = linear(size, embedding, names.embedding)
        sizes = (embedding, lstm)
        self.ahead = PeepholeLSTM(*sizes, names.forward_projection, names.forward, bias, reverse=False)
        self.back = PeepholeLSTM(*sizes, names.backward_projection, names.backward, bias, reverse=True)
        self.attention = linear(2 * lstm, 1, names.attention, bias)

    def forward(self, feature: Tensor, length: Tensor) -> Tensor:
        """``feature`` ``(N, T, D)``, ``length`` ``(N,)`` int64 to ``(N, 2H)``."""
        x = paddle.tanh(self.embedding(feature))  # (N, T, E)
        x = paddle.concat([self.ahead(x, length), self.back(x, length)], axis=2)  # (N, T, 2H)
        x = F.dropout(x, self.drop_rate, training=self.training, mode="downscale_in_infer")
        scores = self.attention(x).squeeze(2)  # (N, T)
        inside = inside_mask(length, paddle.shape(x)[1])
        scores = paddle.where(inside, scores, paddle.full_like(scores, -1e30))
        weights = F.softmax(scores, axis=1)
        return paddle.matmul(weights.unsqueeze(1), x).squeeze(1)  # (N, 1, T) x (N, T, 2H) -> (N, 2H)


class AttentionLSTM(nn.Layer):
    class Config(Config):
        feature_names: list[str] = key(["rgb", "audio"], "MODEL", min_length=1)
        feature_dims: list[PositiveInt] = key([1024, 128], "MODEL", min_length=1)  # D of each
        embedding_size: int = key(512, "MODEL", gt=0)  # E
        lstm_size: int = key(1024, "MODEL", gt=0)  # H
        drop_rate: float = key(0.5, "MODEL", ge=0, lt=1)
        classifier_sizes: list[PositiveInt] = key([8192, 4096], "MODEL", min_length=2, max_length=2)
        num_classes: int = key(3862, gt=0)  # K

    projection_bias: ClassVar[bool] = True
    loss_is_sum: ClassVar[bool] = True

    @staticmethod
    def inputs(config: AttentionLSTM.Config) -> tuple[str, ...]:
        """What ``forward`` takes: each feature and its lengths."""
        return tuple(field for name in config.feature_names for field in (name, f"{name}_length"))

    @classmethod
    def stream_names(cls, features: list[str]) -> list[StreamNames]:
        """2019 numbered the layers as they were made."""
        fc, lstm = "fc_{}".format, "lstm_{}".format
        return [
            StreamNames(fc(4 * i), fc(4 * i + 1), lstm(2 * i), fc(4 * i + 2), lstm(2 * i + 1), fc(4 * i + 3))
            for i in range(len(features))
        ]

    @classmethod
    def head_names(cls, features: list[str]) -> list[str]:
        return [f"fc_{4 * len(features) + i}" for i in range(3)]

    def __init__(self, config: AttentionLSTM.Config) -> None:
        super().__init__()
        features, lstm = config.feature_names, config.lstm_size
        if len(features) != len(config.feature_dims):
            raise ConfigError(
                f"MODEL.feature_names has {len(features)} entries, feature_dims {len(config.feature_dims)}"
            )
        self.streams = nn.LayerList(
            Stream(size, config.embedding_size, lstm, config.drop_rate, names, self.projection_bias)
            for size, names in zip(config.feature_dims, self.stream_names(features), strict=True)
        )
        sizes = (2 * lstm * len(features), *config.classifier_sizes, config.num_classes)
        names = self.head_names(features)
        self.fc1, self.fc2, self.output = (linear(sizes[i], sizes[i + 1], names[i]) for i in range(3))

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Each feature ``(N, T, D)`` float32, followed by its lengths ``(N,)`` int64, in the order of
        ``feature_names``; ``logits`` and ``probability``, both ``(N, K)``. Streams may differ in T.
        """
        pooled = [stream(inputs[2 * i], inputs[2 * i + 1]) for i, stream in enumerate(self.streams)]
        x = F.relu(self.fc1(paddle.concat(pooled, axis=1)))
        logits = self.output(paddle.tanh(self.fc2(x)))
        return {"probability": F.sigmoid(logits), "logits": paddle.assign(logits)}

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sigmoid cross entropy in nats against ``label`` ``(N, K)``, 0 or 1, summed over N and K.

        ``video_loss`` is the mean over N, to be reported.
        """
        label = batch["label"].astype(outputs["logits"].dtype)
        total = F.binary_cross_entropy_with_logits(outputs["logits"], label, reduction="sum")
        return {"loss": total, "video_loss": total / label.shape[0]}

    def adapt_pretrained(self, state: dict) -> dict:
        """All of it; a classifier of other classes does not fit and is trained anew."""
        return state


class Solver(Config):
    """RMSProp, centered; the rate drops after the given epochs of ``num_samples``."""

    counter_begin: ClassVar[int] = 0  # 2019's step counter after no step

    learning_rate: float = key(1e-3, "TRAIN", gt=0)
    decay_epochs: list[PositiveFloat | PositiveInt] = key([5], "TRAIN")
    decay_gamma: float = key(0.1, "TRAIN", gt=0)
    weight_decay: float = key(8e-4, "TRAIN", ge=0)
    num_samples: int = key(5_000_000, "TRAIN", gt=0)
    batch_size: int = key(..., "TRAIN", gt=0)

    def build(self, parameters: list[Tensor]):
        steps_per_epoch = self.num_samples / self.batch_size  # not rounded, as in 2019
        boundaries = [epoch * steps_per_epoch for epoch in self.decay_epochs]
        schedule = optimizer.step_decay(self.learning_rate, self.decay_gamma, boundaries)
        return optimizer.rmsprop(schedule, parameters, self.weight_decay)
