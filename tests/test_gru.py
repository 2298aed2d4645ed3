"""The GRU against its equations, finite differences, itself alone, step by step and as a Program."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from models.common.gru import GRU
from models.common.layers import linear

LENGTHS = np.array([3, 6, 1, 6, 4])
HIDDEN = 4
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_equations(x: np.ndarray, start: np.ndarray, state: dict[str, np.ndarray], reverse: bool) -> np.ndarray:
    """One sequence ``(T, E)`` to ``(T, H)``."""
    flat = state["gru.w_0"].reshape(-1)
    of_gates = flat[: 2 * HIDDEN**2].reshape(HIDDEN, 2 * HIDDEN)
    of_candidate = flat[2 * HIDDEN**2 :].reshape(HIDDEN, HIDDEN)
    inputs = x @ state["fc.w_0"] + state["gru.b_0"][0]
    h, outputs = start, []
    for row in inputs[::-1] if reverse else inputs:
        u, r = np.split(sigmoid(row[: 2 * HIDDEN] + h @ of_gates), 2)
        c = np.tanh(row[2 * HIDDEN :] + (r * h) @ of_candidate)
        h = (1 - u) * h + u * c
        outputs.append(h)
    return np.array(outputs[::-1] if reverse else outputs)


@pytest.fixture
def float64():
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def make(reverse: bool = False) -> GRU:
    with paddle.utils.unique_name.guard():
        layer = GRU(HIDDEN, "gru", linear(5, 3 * HIDDEN, "fc", bias=False), reverse)
    rng = np.random.default_rng(1)
    for parameter in layer.parameters():
        parameter.set_value(rng.normal(0, 0.4, parameter.shape).astype(parameter.numpy().dtype))
    return layer


def batch(dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """Rows and first states; what lies behind a sequence's end is not zero, and must not matter."""
    rng = np.random.default_rng(0)
    shape = (len(LENGTHS), LENGTHS.max(), 5)
    return rng.normal(size=shape).astype(dtype), rng.normal(size=(len(LENGTHS), HIDDEN)).astype(dtype)


@both_ways
def test_every_sequence_follows_the_equations(float64, reverse):
    layer, (x, start) = make(reverse), batch()
    got = layer(*map(paddle.to_tensor, (x, LENGTHS, start))).numpy()
    state = {parameter.name: parameter.numpy() for parameter in layer.parameters()}
    for i, length in enumerate(LENGTHS):
        expected = by_equations(x[i, :length], start[i], state, reverse)
        assert np.abs(got[i, :length] - expected).max() < 1e-12
        assert not got[i, length:].any()


@both_ways
def test_gradients_are_those_of_finite_differences(float64, reverse):
    layer = make(reverse)
    x, start = (paddle.to_tensor(value, stop_gradient=False) for value in batch())
    length = paddle.to_tensor(LENGTHS)
    weights = paddle.to_tensor(np.random.default_rng(2).normal(size=(*x.shape[:2], HIDDEN)))

    def loss() -> paddle.Tensor:
        return (layer(x, length, start) * weights).sum()

    loss().backward()
    for tensor in (x, start, *layer.parameters()):
        gradient = tensor.grad.numpy().reshape(-1)
        value = tensor.numpy()
        for i in np.random.default_rng(3).choice(value.size, 8, replace=False):
            around = []
            for change in (1e-6, -1e-6):
                moved = value.reshape(-1).copy()
                moved[i] += change
                tensor.set_value(moved.reshape(value.shape))
                around.append(float(loss()))
            tensor.set_value(value)
            assert gradient[i] == pytest.approx((around[0] - around[1]) / 2e-6, rel=1e-5, abs=1e-8), (
                tensor.name
            )


def test_steps_one_by_one_give_the_sequence(float64):
    layer, (x, start) = make(), batch()
    x, start = paddle.to_tensor(x[1:2]), paddle.to_tensor(start[1:2])
    expected = layer(x, paddle.to_tensor(LENGTHS[1:2]), start)
    for t in range(LENGTHS[1]):
        start = layer.step(layer.projection(x[:, t]), start)
        assert float((start - expected[:, t]).abs().max()) < 1e-12


def test_the_first_state_is_zero_unless_given(float64):
    layer, (x, start) = make(), batch()
    x, length = paddle.to_tensor(x), paddle.to_tensor(LENGTHS)
    given = layer(x, length, paddle.zeros(start.shape))
    given.sum().backward()
    expected = layer.weight.grad.numpy()
    layer.clear_gradients()
    left_out = layer(x, length)
    left_out.sum().backward()
    assert np.array_equal(left_out.numpy(), given.numpy())
    assert np.array_equal(layer.weight.grad.numpy(), expected)


@both_ways
@pytest.mark.parametrize("with_start", [True, False], ids=["from a state", "from zero"])
def test_a_program_gives_the_values_and_gradients_of_eager(reverse, with_start):
    values, gradients = [], []
    for as_program in (False, True):
        layer = make(reverse)
        called = layer
        if as_program:
            specs = [
                InputSpec([None, None, 5], "float32", "x"),
                InputSpec([None], "int64", "length"),
                InputSpec([None, HIDDEN], "float32", "start"),
            ][: 2 + with_start]
            called = paddle.jit.to_static(layer, input_spec=specs, full_graph=True)
        x, start = (paddle.to_tensor(value, stop_gradient=False) for value in batch("float32"))
        inputs = (x, paddle.to_tensor(LENGTHS), start)[: 2 + with_start]
        output = called(*inputs)
        (output * paddle.arange(output.shape[1], dtype="float32").unsqueeze(1)).sum().backward()
        values.append(output.numpy())
        gradients.append({t.name: t.grad.numpy() for t in layer.parameters()})
        gradients[-1] |= {
            name: t.grad.numpy() for name, t in {"x": x, "start": start}.items() if t.grad is not None
        }
        assert ("start" in gradients[-1]) == with_start
    assert np.abs(values[0] - values[1]).max() < 1e-6
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert np.abs(gradient - gradients[1][name]).max() < 1e-5, name
