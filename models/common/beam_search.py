"""Beam search: the best sentences that a network of one step makes, many sources at once.

At each step every live sentence is continued by its ``beam_size`` best words, and of all these the
``beam_size`` best sentences of a source go on. A sentence that has ended stays as it is, with its score,
as long as it is among them. As in 2019 scores are sums of log-probabilities, not divided by length.
Shapes: N sources, K = beam_size, L = max_length, V words, H features of a state.
"""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import Tensor

NEVER = -1e30  # the score of what is not a sentence; finite, since infinity times 0 is no number
LEAST = 1e-38  # a probability whose logarithm is finite


def beam_search(
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    state: Tensor,
    start: int,
    end: int,
    beam_size: int,
    max_length: int,
) -> tuple[Tensor, Tensor]:
    """Sentences of every source, the best first; eager and in a Program.

    Args:
        step: the last words ``(N*K,)`` int64 and states ``(N*K, H)`` to probabilities ``(N*K, V)`` of the
            next word and the next states. The K rows of a source lie together.
        state: ``(N, H)`` before the first word.
        start, end: ids of the words before the first and behind the last one.
        max_length: words a sentence, ``end`` counted and ``start`` not; the search stops as soon as every
            sentence has ended.

    Returns:
        Words ``(N, K, L + 1)`` int64, ``start`` first and ``end`` from the sentence's end on, and
        ``(N, K, L + 1)`` float32, the score of the sentence up to each word. One that reaches ``max_length``
        has no ``end``.
    """
    sources, places = paddle.shape(state)[0], max_length + 1
    state = state.unsqueeze(1).tile([1, beam_size, 1]).flatten(0, 1)  # (N, H) -> (N*K, H)
    first_row = (paddle.arange(sources).astype("int64") * beam_size).unsqueeze(1)  # (N, 1), of each source
    place = paddle.arange(places)
    shape = [sources, beam_size]
    word = paddle.full(shape, start, "int64")
    only_first = paddle.concat([paddle.zeros([1]), paddle.full([beam_size - 1], NEVER)])
    score = paddle.zeros(shape) + only_first  # at first there is one sentence a source
    words = paddle.where(place == 0, paddle.full([*shape, places], start, "int64"), end)
    scores = paddle.zeros([*shape, places])

    def go_on(t: Tensor, word: Tensor, *_: Tensor) -> Tensor:
        return paddle.logical_and(t <= max_length, (word != end).any())

    def body(t, word, score, state, words, scores):
        probability, state = step(word.flatten(), state)
        best, following = paddle.topk(probability, beam_size)  # (N*K, K)
        best = paddle.log(best.clip(min=LEAST)).reshape([-1, beam_size, beam_size])
        best = score.unsqueeze(2) + best  # (N, K, K)
        following = following.reshape([-1, beam_size, beam_size])
        ended = (word == end).unsqueeze(2)  # its one continuation is itself
        best = paddle.where(ended, score.unsqueeze(2) + only_first, best)
        following = paddle.where(ended, paddle.full_like(following, end), following)
        score, chosen = paddle.topk(best.flatten(1), beam_size)  # (N, K) of (N, K*K)
        word = paddle.take_along_axis(following.flatten(1), chosen, 1)
        rows = (first_row + chosen // beam_size).flatten()  # (N*K,): the sentences that are continued
        state = paddle.gather(state, rows)
        here = place == t
        words = paddle.gather(words.flatten(0, 1), rows).reshape(words.shape)
        words = paddle.where(here, word.unsqueeze(2), words)
        scores = paddle.gather(scores.flatten(0, 1), rows).reshape(scores.shape)
        scores = paddle.where(place < t, scores, score.unsqueeze(2))
        return [t + 1, word, score, state, words, scores]

    variables = [paddle.ones([1], "int64"), word, score, state, words, scores]
    *_, words, scores = paddle.static.nn.while_loop(go_on, body, variables)
    return words, scores
