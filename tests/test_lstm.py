"""The peephole LSTM against its equations, finite differences, itself alone and as a Program."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from models.attention_lstm import AttentionLSTM
from models.common.lstm import PeepholeLSTM
from utils import engine

LENGTHS = np.array([3, 6, 1, 6, 4])
both_ways = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_equations(x: np.ndarray, state: dict[str, np.ndarray], reverse: bool) -> np.ndarray:
    """One sequence ``(T, E)`` to ``(T, H)``."""
    weight, bias = state["lstm.w_0"], state["lstm.b_0"][0]
    width = len(weight)
    p_i, p_f, p_o = bias[4 * width :].reshape(3, width)
    inputs = x @ state["fc.w_0"] + state["fc.b_0"] + bias[: 4 * width]
    h, c, outputs = np.zeros(width), np.zeros(width), []
    for row in inputs[::-1] if reverse else inputs:
        a, i, f, o = np.split(row + h @ weight, 4)
        i, f = sigmoid(i + c * p_i), sigmoid(f + c * p_f)
        c = f * c + i * np.tanh(a)
        h = sigmoid(o + c * p_o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs[::-1] if reverse else outputs)


@pytest.fixture
def float64():
    paddle.set_default_dtype("float64")
    yield
    paddle.set_default_dtype("float32")


def make(hidden: int, reverse: bool, bias: bool = True) -> PeepholeLSTM:
    with paddle.utils.unique_name.guard():
        layer = PeepholeLSTM(5, hidden, "fc", "lstm", bias, reverse)
    rng = np.random.default_rng(1)
    for parameter in layer.parameters():
        parameter.set_value(rng.normal(0, 0.4, parameter.shape).astype(parameter.numpy().dtype))
    return layer


def batch(dtype: str = "float64") -> np.ndarray:
    """Rows of every sequence; what lies behind an end is not zero, and must not matter."""
    return np.random.default_rng(0).normal(size=(len(LENGTHS), LENGTHS.max(), 5)).astype(dtype)


@both_ways
def test_every_sequence_follows_the_equations(float64, reverse):
    layer, x = make(8, reverse), batch()
    got = layer(paddle.to_tensor(x), paddle.to_tensor(LENGTHS)).numpy()
    state = {parameter.name: parameter.numpy() for parameter in layer.parameters()}
    for row, values, length in zip(x, got, LENGTHS, strict=True):
        assert np.abs(values[:length] - by_equations(row[:length], state, reverse)).max() < 1e-12
        assert not values[length:].any()


@both_ways
@pytest.mark.parametrize("hidden", [3, 8])  # Fluid's own gradients were wrong where 8 divides it
def test_gradients_are_those_of_finite_differences(float64, reverse, hidden):
    layer, x = make(hidden, reverse), paddle.to_tensor(batch())
    x.stop_gradient = False
    length = paddle.to_tensor(LENGTHS)
    weights = paddle.to_tensor(np.random.default_rng(2).normal(size=(*x.shape[:2], hidden)))

    def loss() -> paddle.Tensor:
        return (layer(x, length) * weights).sum()

    loss().backward()
    for tensor in (x, *layer.parameters()):
        value, gradient = tensor.numpy(), tensor.grad.numpy()
        for place in np.random.default_rng(3).choice(value.size, 12, replace=value.size < 12):
            where = np.unravel_index(place, value.shape)
            sides = []
            for step in (1e-5, -1e-5):
                moved = value.copy()
                moved[where] += step
                tensor.set_value(moved)
                sides.append(float(loss()))
            tensor.set_value(value)
            assert gradient[where] == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-8)


@both_ways
def test_a_program_of_free_length_gives_the_same_values_and_gradients(reverse):
    layer = make(8, reverse)
    specs = [InputSpec([None, None, 5], "float32", "x"), InputSpec([None], "int64", "length")]
    x, gradients = batch("float32"), []
    expected = []
    for count in (5, 2):  # sequences; the two also have fewer steps
        values = paddle.to_tensor(x[:count, : LENGTHS[:count].max() - (count == 2)])
        length = paddle.to_tensor(np.minimum(LENGTHS[:count], values.shape[1]))
        output = layer(values, length)
        (output * output).sum().backward()
        expected.append((values, length, output.numpy()))
        gradients.append([parameter.grad.numpy() for parameter in layer.parameters()])
        layer.clear_gradients()
    program = paddle.jit.to_static(layer, input_spec=specs, full_graph=True)
    for (values, length, output), wanted in zip(expected, gradients, strict=True):
        got = program(values, length)
        assert np.abs(got.numpy() - output).max() < 1e-6
        (got * got).sum().backward()
        for parameter, gradient in zip(layer.parameters(), wanted, strict=True):
            error = np.abs(parameter.grad.numpy() - gradient).max()
            assert error <= 1e-5 * np.abs(gradient).max(), parameter.name
        layer.clear_gradients()


def test_a_video_is_tagged_alike_alone_and_in_a_batch():
    config = AttentionLSTM.Config(
        feature_dims=[6, 4], embedding_size=8, lstm_size=8, classifier_sizes=[16, 16], num_classes=5
    )
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        network = AttentionLSTM(config)
    network.eval()
    rng = np.random.default_rng(0)
    lengths = np.array([4, 1, 7]), np.array([3, 5, 2])  # the streams of a video may differ
    streams = [
        rng.normal(size=(3, max(n), d)).astype("float32") for n, d in zip(lengths, (6, 4), strict=True)
    ]

    def run(*arrays: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return network(*map(paddle.to_tensor, arrays))["logits"].numpy()

    together = run(streams[0], lengths[0], streams[1], lengths[1])
    for i in range(3):
        n, m = lengths[0][i], lengths[1][i]
        alone = run(streams[0][i : i + 1, :n], np.array([n]), streams[1][i : i + 1, :m], np.array([m]))
        assert np.abs(alone[0] - together[i]).max() < 1e-5
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_the_loss_is_a_sum_over_the_batch_of_all_processes(monkeypatch):
    outputs = {"logits": paddle.to_tensor([[0.0, 2.0], [1.0, -1.0]])}
    label = np.array([[1.0, 0.0], [0.0, 1.0]], "float32")
    x = outputs["logits"].numpy()
    expected = (np.log1p(np.exp(x)) - label * x).sum()
    with paddle.utils.unique_name.guard():
        network = AttentionLSTM(AttentionLSTM.Config(lstm_size=2, embedding_size=2, classifier_sizes=[2, 2]))
    assert float(network.loss(outputs, {"label": paddle.to_tensor(label)})["loss"]) == pytest.approx(expected)
    monkeypatch.setattr("utils.device.world_size", lambda: 4)
    assert engine.part_weights(network, [{}, {}]) == [4.0, 4.0]  # the ranks' gradients are averaged
