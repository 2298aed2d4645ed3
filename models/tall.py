"""TALL, also CTRL: Temporal Activity Localization via Language Query (Gao et al., ICCV 2017,
https://arxiv.org/abs/1705.02101).

A window of a movie and a sentence are brought into one space. Their product, their sum and both
themselves are joined into one vector, and two layers make three numbers of it: how well the window fits the
sentence, and how far its start and end are from those of the moment that the sentence speaks of, in frames.
The product is all that must be computed for every pair; what the other parts contribute is a term of the
window and a term of the sentence (``_hidden``). That is a quarter of the work, and the same number.
Shapes: N windows, M sentences (in training M of this process, N of all), V and E features of a window with
its context and of a sentence, D features of the common space, H hidden units.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Normal

from utils import device, optimizer
from utils.config import MODE, Config, key


class TALL(nn.Layer):
    class Config(Config):
        visual_feature_dim: int = key(12288, "MODEL", gt=0)  # V
        sentence_embedding_size: int = key(4800, "MODEL", gt=0)  # E
        semantic_size: int = key(1024, "MODEL", gt=0)  # D; elsewhere this key is the reader's
        hidden_size: int = key(1000, "MODEL", gt=0)  # H
        output_size: Literal[3] = key(3, "MODEL")
        off_size: Literal[2] = key(2, MODE)

    def __init__(self, config: TALL.Config) -> None:
        super().__init__()
        d, h = config.semantic_size, config.hidden_size
        self.visual = self._weight("v2s_lt_weights", [config.visual_feature_dim, d], 1.0)
        self.sentence = self._weight("s2s_lt_weights", [config.sentence_embedding_size, d], 1.0)
        # 2019's layers are convolutions over the (M, N) plane with a kernel of 1.
        self.hidden = self._weight("mid_out_weights", [h, 4 * d, 1, 1], (2.0 / (4 * d)) ** 0.5)
        self.output = self._weight("sim_mat_weights", [config.output_size, h, 1, 1], (2.0 / h) ** 0.5)

    def _weight(self, name: str, shape: list[int], std: float) -> Tensor:
        return self.create_parameter(shape, ParamAttr(name=name, initializer=Normal(0.0, std)))

    def forward(self, visual: Tensor, sentences: Tensor) -> dict[str, Tensor]:
        """Windows ``(N, V)`` and sentences ``(M, E)`` float32 to ``scores`` ``(3, M, N)``.

        ``scores[0]`` is the alignment, no probability: 0 is undecided. ``scores[1:]`` are what to add to the
        start and to the end of the window, in frames.
        """
        visual = unit(paddle.matmul(visual, self.visual))  # (N, V) -> (N, D)
        sentences = unit(paddle.matmul(sentences, self.sentence))  # (M, E) -> (M, D)
        hidden = F.relu(self._hidden(visual, sentences))  # (M, N, H)
        scores = paddle.matmul(hidden, self.output[:, :, 0, 0], transpose_y=True)  # (M, N, 3)
        return {"scores": scores.transpose([2, 0, 1])}  # (3, M, N)

    def _hidden(self, visual: Tensor, sentences: Tensor) -> Tensor:
        """``(N, D)`` and ``(M, D)`` to ``(M, N, H)``: the weights of [v * s, v + s, v, s], term by term."""
        product, total, of_visual, of_sentence = self.hidden[:, :, 0, 0].split(4, axis=1)  # (H, D) each
        pairs = sentences.unsqueeze(1) * visual.unsqueeze(0)  # (M, N, D)
        by_visual = paddle.matmul(visual, total + of_visual, transpose_y=True)  # (N, H)
        by_sentence = paddle.matmul(sentences, total + of_sentence, transpose_y=True)  # (M, H)
        return paddle.matmul(pairs, product, transpose_y=True) + by_visual + by_sentence.unsqueeze(1)

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        """Alignment of every pair and, a hundredth of it, the offsets of those that belong together.

        Window i belongs to sentence i; other pairs of the batch are taken for wrong, and weigh 1 / N each.
        ``offsets`` ``(M, 2)`` are start and end of the moment minus those of the window, in frames.
        """
        alignment, starts, ends = outputs["scores"].unbind(0)  # (M, N) each
        own = paddle.eye(alignment.shape[0], alignment.shape[1])  # (M, N)
        # log(1 + exp(x)) in a form that does not overflow.
        each = F.softplus(alignment * (1.0 - 2.0 * own)) * (own + 1.0 / alignment.shape[1])
        offsets = paddle.stack([(starts * own).sum(1), (ends * own).sum(1)], axis=1)  # (M, 2)
        regression = (offsets - batch["offsets"]).abs().mean()
        return {"loss": each.mean() + 0.01 * regression}

    def with_other_parts(self, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The parts of a training batch, each with the windows of all others, of other processes too,
        behind its own.

        They are the wrong ones for its sentences, as in a batch of one part; so the mean over the parts is
        the loss, and the gradient, of the total batch.
        """
        every = device.gather([part["visual"].numpy() for part in parts])
        windows = {(rank, i): value for rank, own in enumerate(every) for i, value in enumerate(own)}
        if len(windows) == 1:
            return parts
        whole = []
        for i, part in enumerate(parts):
            others = [paddle.to_tensor(v) for place, v in windows.items() if place != (device.rank(), i)]
            whole.append({**part, "visual": paddle.concat([part["visual"], *others])})
        return whole


def unit(x: Tensor) -> Tensor:
    """Rows of length 1; a row of zeros stays. Epsilon is inside the root, as published weights expect."""
    # Not paddle.square: oneDNN (Paddle 3.3) makes it one with the product x comes from, and x is wrong then.
    return x / paddle.sqrt((x * x).sum(axis=1, keepdim=True) + 1e-12)


class Solver(Config):
    """Adam at a constant rate, all gradients together scaled down to ``clip_norm``."""

    counter_begin: ClassVar[int] = 0  # 2019 counted no steps at a constant rate

    # VALID repeats these keys in 2019's recipe; they mean nothing there.
    learning_rate: float = key(1e-3, "TRAIN", "VALID", gt=0)
    clip_norm: float = key(5.0, "TRAIN", "VALID", gt=0)

    def build(self, parameters: list[Tensor]):
        return optimizer.adam(self.learning_rate, parameters, clip_norm=self.clip_norm, plain_epsilon=True)
