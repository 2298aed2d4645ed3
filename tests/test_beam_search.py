"""Beam search against an exhaustive and a plain, one by one search, and in a Program."""

from __future__ import annotations

import itertools

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from models.common.beam_search import beam_search

START, END, WORDS = 0, 1, 5


class Step(paddle.nn.Layer):
    """The next word's probabilities depend on the last word and on a state that every word changes."""

    def __init__(self, seed: int, size: int = 4) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.table = paddle.to_tensor(rng.normal(0, 1.5, (WORDS, WORDS)).astype("float32"))
        self.mix = paddle.to_tensor(rng.normal(0, 1, (size, WORDS)).astype("float32"))
        self.push = paddle.to_tensor(rng.normal(0, 1, (WORDS, size)).astype("float32"))

    def forward(self, word, state):
        state = paddle.tanh(state + paddle.gather(self.push, word))
        logits = paddle.gather(self.table, word) + paddle.matmul(state, self.mix)
        return paddle.nn.functional.softmax(logits), state


class Search(paddle.nn.Layer):
    def __init__(self, seed: int, beam_size: int, max_length: int) -> None:
        super().__init__()
        self.step, self.sizes = Step(seed), (beam_size, max_length)

    def forward(self, state):
        return beam_search(self.step, state, START, END, *self.sizes)


def states(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def continued(step: Step, sentence: tuple[int, ...], state: np.ndarray) -> np.ndarray:
    """Log-probabilities (V,) of what follows ``sentence``."""
    state = paddle.to_tensor(state[None])
    for word in sentence:
        scores, state = step(paddle.to_tensor([word]), state)
    return np.log(scores.numpy()[0].astype(np.float64))


def searched(step: Step, state: np.ndarray, beam_size: int, max_length: int) -> list[tuple[tuple, float]]:
    """The same search by lists: sentences without START, and their scores, the best first."""
    live: list[tuple[tuple, float]] = [((), 0.0)]
    for _ in range(max_length):
        candidates = []
        for sentence, score in live:
            if sentence and sentence[-1] == END:
                candidates.append((sentence, score))
                continue
            scores = continued(step, (START, *sentence), state)
            best = np.argsort(-scores)[:beam_size]
            candidates += [((*sentence, int(word)), score + scores[word]) for word in best]
        live = sorted(candidates, key=lambda item: -item[1])[:beam_size]
        if all(sentence[-1] == END for sentence, _ in live):
            break
    return live


def as_lists(words: np.ndarray, scores: np.ndarray) -> list[list[tuple[tuple, float]]]:
    found = []
    for source, of_source in zip(words.tolist(), scores, strict=True):
        sentences = []
        for sentence, values in zip(source, of_source, strict=True):
            assert sentence[0] == START
            length = sentence.index(END) + 1 if END in sentence else len(sentence)
            assert set(sentence[length:]) <= {END}
            assert (values[length - 1 :] == values[length - 1]).all()
            sentences.append((tuple(sentence[1:length]), float(values[-1])))
        found.append(sentences)
    return found


def same(ours: list[tuple[tuple, float]], expected: list[tuple[tuple, float]]) -> None:
    assert [sentence for sentence, _ in ours] == [sentence for sentence, _ in expected]
    assert [score for _, score in ours] == pytest.approx([score for _, score in expected], abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_a_batch_gives_what_sources_give_one_by_one(seed, beam_size):
    search, source = Search(seed, beam_size, 7), states(6, seed)
    found = as_lists(*(value.numpy() for value in search(paddle.to_tensor(source))))
    for ours, state in zip(found, source, strict=True):
        same(ours, searched(search.step, state, beam_size, 7))


def test_a_beam_as_wide_as_everything_finds_the_best_sentence():
    search, source = Search(1, WORDS, 2), states(5)
    found = as_lists(*(value.numpy() for value in search(paddle.to_tensor(source))))
    for ours, state in zip(found, source, strict=True):
        first = continued(search.step, (START,), state)
        scores = {(END,): first[END]}
        for one, two in itertools.product([w for w in range(WORDS) if w != END], range(WORDS)):
            scores[one, two] = first[one] + continued(search.step, (START, one), state)[two]
        best = max(scores, key=scores.get)
        assert ours[0][0] == best and ours[0][1] == pytest.approx(scores[best], abs=1e-4)


def test_a_sentence_as_long_as_allowed_has_no_end():
    search = Search(0, 2, 3)
    search.step.table[:, END] = -50.0
    words, _ = search(paddle.to_tensor(states(2)))
    assert words.shape == [2, 2, 4] and not (words.numpy() == END).any()


def test_a_program_of_free_batch_gives_the_same():
    search = Search(2, 3, 6)
    spec = [InputSpec([None, 4], "float32", "state")]
    program = paddle.jit.to_static(Search(2, 3, 6), input_spec=spec, full_graph=True)
    for count in (1, 4):
        source = paddle.to_tensor(states(count))
        for ours, expected in zip(program(source), search(source), strict=True):
            assert np.abs(ours.numpy() - expected.numpy()).max() < 1e-5
