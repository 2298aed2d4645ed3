"""ETS: "Describing Videos by Exploiting Temporal Structure" (Yao et al., ICCV 2015,
https://arxiv.org/abs/1502.08029), as 2019 built it for segments of ActivityNet Captions.

A bidirectional GRU reads the features of a segment, attention weighs its moments, and a second GRU writes a
sentence, word by word. 2019's attention adds the decoder's state without a non-linearity: it is the same for
every moment, so the softmax cancels it, and all words share one weighting, one context.
Shapes: N segments, T rows of the longest, D features a row, E = fc_dim, H = gru_hidden_dim, L words of the
longest sentence, W words of the batch, B = word_emb_dim, V words of the dictionary, K = beam_size.
"""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from models.common.beam_search import beam_search
from models.common.gru import GRU
from models.common.layers import linear, xavier
from models.common.ragged import inside_mask
from utils import optimizer
from utils.config import Config, key
from utils.errors import ConfigError
from utils.vocabulary import Vocabulary


class Encoder(nn.Layer):
    """Features ``(N, T, D)`` to ``(N, T, 2H)``: what both directions know at each row."""

    def __init__(self, feat_size: int, fc_dim: int, hidden: int) -> None:
        super().__init__()
        self.embedding = linear(feat_size, fc_dim, "fc_0")
        self.ahead = GRU(hidden, "gru_0", linear(fc_dim, 3 * hidden, "fc_1", bias=False))
        self.back = GRU(hidden, "gru_1", linear(fc_dim, 3 * hidden, "fc_2", bias=False), reverse=True)

    def forward(self, feat: Tensor, length: Tensor) -> Tensor:
        x = paddle.tanh(self.embedding(feat))  # (N, T, E)
        return paddle.concat([self.ahead(x, length), self.back(x, length)], axis=2)


class Attention(nn.Layer):
    """Encoded rows ``(N, T, 2H)`` to the decoder's first state ``(N, H)`` and the context ``(N, 2H)``.

    Both are weighted sums over the rows of a segment. The context's weights are those of the first word,
    which are those of every word: see above.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.summary_score = linear(2 * hidden, 1, "fc_3", bias=False)
        self.of_row = linear(2 * hidden, hidden, "fc_4", bias=False)
        self.first_state = linear(2 * hidden, hidden, "fc_5", bias=False)
        self.of_state = linear(hidden, hidden, "fc_6", bias=False)
        self.score = linear(hidden, 1, "fc_7", bias=False)

    def forward(self, encoded: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        inside = inside_mask(length, paddle.shape(encoded)[1])
        summary = _weighted_sum(self.summary_score(encoded), encoded, inside)
        state = paddle.tanh(self.first_state(summary))
        scores = self.score(self.of_row(encoded) + self.of_state(state).unsqueeze(1))  # (N, T, 1)
        return state, _weighted_sum(scores, encoded, inside)


def _weighted_sum(scores: Tensor, rows: Tensor, inside: Tensor) -> Tensor:
    """``rows`` ``(N, T, ·)`` by the softmax of ``scores`` ``(N, T, 1)`` over those that are ``inside``."""
    scores = scores.squeeze(2)
    weights = F.softmax(paddle.where(inside, scores, paddle.full_like(scores, -1e30)), axis=1)
    return paddle.matmul(weights.unsqueeze(1), rows).squeeze(1)  # (N, 1, T) x (N, T, ·) -> (N, ·)


class Decoder(nn.Layer):
    """The GRU that writes, from a first state and the context: a whole sentence given, or word by word."""

    def __init__(self, hidden: int, embedding: int, num_words: int) -> None:
        super().__init__()
        word = ParamAttr(name="embedding_0.w_0", initializer=xavier(num_words, embedding))
        self.embedding = nn.Embedding(num_words, embedding, weight_attr=word)
        self.of_word = linear(embedding, 3 * hidden, "fc_8", bias=False)
        context = ParamAttr(name="fc_8.w_1", initializer=xavier(2 * hidden, 3 * hidden))
        self.of_context = nn.Linear(2 * hidden, 3 * hidden, weight_attr=context, bias_attr=False)
        self.gru = GRU(hidden, "gru_unit_0")
        self.output = linear(hidden, num_words, "fc_9", decay_bias=True)

    def forward(self, word: Tensor, length: Tensor, state: Tensor, context: Tensor) -> Tensor:
        """Words ``(N, L)`` to the logits ``(W, V)`` of what follows each of them, sentence after sentence."""
        gates = self.of_word(self.embedding(word)) + self.of_context(context).unsqueeze(1)  # (N, L, 3H)
        hidden = self.gru(gates, length, state)  # (N, L, H)
        return self.output(_rows_inside(hidden, length))

    def search(self, state: Tensor, context: Tensor, vocabulary: Vocabulary, beam_size: int, most: int):
        """The ``beam_size`` best sentences of ``most`` words at most: see ``beam_search``."""
        fixed = self.of_context(context).unsqueeze(1).tile([1, beam_size, 1]).flatten(0, 1)  # (N*K, 3H)

        def step(word: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            state = self.gru.step(self.of_word(self.embedding(word)) + fixed, state)
            return F.softmax(self.output(state), axis=1), state

        return beam_search(step, state, vocabulary.start, vocabulary.end, beam_size, most)


def _rows_inside(values: Tensor, length: Tensor) -> Tensor:
    """``(N, L, ·)`` to ``(W, ·)``, without the padding."""
    places = paddle.nonzero(inside_mask(length, paddle.shape(values)[1]).reshape([-1])).flatten()
    return paddle.gather(values.flatten(0, 1), places)


class ETS(nn.Layer):
    """Trained word by word: ``forward`` is given the true sentences. ``captioner`` writes its own."""

    class Config(Config):
        feat_size: int = key(2048, "MODEL", gt=0)  # D
        fc_dim: int = key(1024, "MODEL", gt=0)  # E
        gru_hidden_dim: int = key(512, "MODEL", gt=0)  # H
        decoder_size: int = key(512, "MODEL", gt=0)  # must be H: the decoder's GRU
        word_emb_dim: int = key(512, "MODEL", gt=0)  # B
        max_length: int = key(80, "MODEL", gt=0)  # words of a caption at most, its end counted
        beam_size: int = key(3, "MODEL", gt=0)  # K
        dict_file: str = key(..., "MODEL")
        START: str = key("<s>", "MODEL")
        END: str = key("<e>", "MODEL")
        UNK: str = key("<unk>", "MODEL")

    def __init__(self, config: ETS.Config) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = Vocabulary(config.dict_file, config.START, config.END, config.UNK)
        if config.decoder_size != config.gru_hidden_dim:
            raise ConfigError(
                f"MODEL.decoder_size is {config.decoder_size}; it must be MODEL.gru_hidden_dim, "
                f"{config.gru_hidden_dim}"
            )
        if config.beam_size > len(self.vocabulary):
            raise ConfigError(
                f"MODEL.beam_size {config.beam_size} is more than the {len(self.vocabulary)} words of "
                f"{config.dict_file}"
            )
        hidden = config.gru_hidden_dim
        self.encoder = Encoder(config.feat_size, config.fc_dim, hidden)
        self.attention = Attention(hidden)
        self.decoder = Decoder(hidden, config.word_emb_dim, len(self.vocabulary))

    def forward(self, feat: Tensor, feat_length: Tensor, word: Tensor, word_length: Tensor) -> dict:
        """``feat`` ``(N, T, D)`` float32, ``word`` ``(N, L)`` int64 that begins with START, and their
        lengths ``(N,)`` int64, each at least 1; ``logits`` ``(W, V)`` of what follows each word.
        """
        state, context = self.attention(self.encoder(feat, feat_length), feat_length)
        return {"logits": self.decoder(word, word_length, state, context)}

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy in nats against ``word_next`` ``(N, L)`` int64, averaged over the words."""
        label = _rows_inside(batch["word_next"].unsqueeze(2), batch["word_length"])  # (W, 1)
        return {"loss": F.cross_entropy(outputs["logits"], label)}

    def mean_over(self, batch: dict[str, Tensor]) -> int:
        """What the loss is a mean over: the words of a batch."""
        return int(batch["word_length"].sum())

    def captioner(self) -> Captioner:
        """The same parameters, as what evaluation and prediction run."""
        return Captioner(self)

    def adapt_pretrained(self, state: dict) -> dict:
        """All of it; what belongs to words of another dictionary does not fit and is trained anew."""
        return state


class Captioner(nn.Layer):
    """Segments to sentences, by the network given."""

    def __init__(self, network: ETS) -> None:
        super().__init__()
        self.network = network

    def forward(self, feat: Tensor, feat_length: Tensor) -> dict[str, Tensor]:
        """``feat`` ``(N, T, D)`` float32 and lengths ``(N,)`` int64 to the K best captions, the best first:
        ``ids`` ``(N, K, max_length + 1)`` int64 and ``scores``, see ``beam_search``.
        """
        network, config = self.network, self.network.config
        state, context = network.attention(network.encoder(feat, feat_length), feat_length)
        ids, scores = network.decoder.search(
            state, context, network.vocabulary, config.beam_size, config.max_length
        )
        return {"ids": ids, "scores": scores}


class Solver(Config):
    """Adam with the rate of "Attention Is All You Need": it rises for ``warmup_steps`` and then falls."""

    counter_begin: ClassVar[int] = 1  # 2019's step counter after no step

    gru_hidden_dim: int = key(512, "MODEL", gt=0)
    learning_rate: float = key(1.0, "TRAIN", gt=0)  # times that rate
    warmup_steps: int = key(1000, "TRAIN", gt=0)
    l2_weight_decay: float = key(1e-4, "TRAIN", ge=0)
    clip_norm: float = key(5.0, "TRAIN", gt=0)  # of all gradients together

    def build(self, parameters: list[Tensor]):
        schedule = optimizer.noam_decay(self.gru_hidden_dim, self.warmup_steps, self.learning_rate)
        return optimizer.adam(schedule, parameters, self.l2_weight_decay, self.clip_norm)
