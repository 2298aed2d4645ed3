"""Mixed precision, gradient accumulation and clipping: the parts; ``test_every_model`` runs the scripts."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from utils import loader, optimizer, precision, program
from utils.errors import ConfigError
from utils.precision import LossScale, Precision, float32_arithmetic, in_float32


def rounded(array: np.ndarray) -> np.ndarray:
    """To the 8 bits of bfloat16's mantissa, half to even."""
    bits = array.astype(np.float32).view(np.uint32).astype(np.int64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


@pytest.fixture
def operands() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((5, 7)).astype(np.float32), rng.standard_normal((7, 3)).astype(np.float32)


@pytest.mark.parametrize("operator", ["matmul", "@", "linear"])
def test_amp_on_a_cpu_rounds_products_forward_and_backward(operands, operator):
    x, w = (paddle.to_tensor(value, stop_gradient=False) for value in operands)
    product = {
        "matmul": lambda: paddle.matmul(x, w),
        "@": lambda: x @ w,
        "linear": lambda: paddle.nn.functional.linear(x, w),
    }[operator]
    with Precision("O1", "cpu").arithmetic():
        y = product()
        total = x + x  # O1 leaves sums alone
    a, b = (rounded(value) for value in operands)
    assert np.array_equal(total.numpy(), 2 * operands[0])
    np.testing.assert_allclose(y.numpy(), rounded(a @ b), rtol=2**-8)
    assert not np.allclose(y.numpy(), operands[0] @ operands[1], rtol=1e-5)
    (y * 1.2345678).sum().backward()
    ones = np.full(y.shape, rounded(np.float32(1.2345678)))
    np.testing.assert_allclose(w.grad.numpy(), a.T @ ones, rtol=2**-7, atol=2**-7)
    assert w.dtype == w.grad.dtype == paddle.float32


def test_amp_rounds_to_the_nearest_and_leaves_infinity():
    values = np.array([1.0, 1.001, 1.004, 1.0059, 1.0078, -1.0059, 3e38, 1e-30, 0.0, np.inf], np.float32)
    assert np.array_equal(precision._round(paddle.to_tensor(values)).numpy(), rounded(values))


def test_amp_o2_rounds_sums_and_activations_and_leaves_paddle_as_it_was(operands):
    x = paddle.to_tensor(operands[0])
    plain = paddle.tanh(x + 0.1)
    with Precision("O2", "cpu").arithmetic():
        low = paddle.tanh(x + 0.1)
        with float32_arithmetic():
            inside = paddle.tanh(x + 0.1)
    assert np.array_equal(low.numpy(), rounded(low.numpy())) and not np.array_equal(
        low.numpy(), plain.numpy()
    )
    assert np.array_equal(inside.numpy(), plain.numpy())
    assert np.array_equal(paddle.tanh(x + 0.1).numpy(), plain.numpy())


def test_amp_restores_the_operators_after_an_error():
    before = paddle._C_ops.matmul
    with pytest.raises(ValueError), Precision("O2", "cpu").arithmetic():
        raise ValueError
    assert paddle._C_ops.matmul is before


def test_amp_gives_the_loss_float32():
    outputs = in_float32({"a": paddle.ones([2], dtype="bfloat16"), "b": paddle.ones([2], dtype="int64")})
    assert outputs["a"].dtype == paddle.float32 and outputs["b"].dtype == paddle.int64


def test_amp_and_to_static_together_are_refused():
    with pytest.raises(ConfigError, match="--amp and --to_static"):
        program.precision("O1", "cpu", True)


def test_amp_loss_scale_divides_gradients_halves_after_overflow_and_doubles_after_patience():
    parameter = paddle.create_parameter([3], "float32")
    scale = LossScale(scale=1024.0, patience=2)
    for factor, expected in ((1.0, 1024.0), (float("inf"), 512.0), (2.0, 512.0), (3.0, 1024.0)):
        parameter.clear_gradient()
        before = scale.scale
        (parameter * factor * before).sum().backward()
        finite = scale.unscale([parameter])
        assert finite == np.isfinite(factor) and scale.scale == expected
        if finite:
            assert np.array_equal(parameter.grad.numpy(), np.full(3, factor, np.float32))
    other = LossScale()
    other.restore(scale.state())
    assert (other.scale, other.good_steps) == (1024.0, 0)


def test_clip_norm_scales_all_gradients_together():
    a, b = (paddle.create_parameter([2], "float32") for _ in range(2))
    start = [value.numpy().copy() for value in (a, b)]
    updates = optimizer.momentum(1.0, [a, b], 0.0, 0.0)
    optimizer.clip(updates, 1.0)
    (a * 3.0 + b * 4.0).sum().backward()  # norm: sqrt(2 * 9 + 2 * 16)
    updates.step()
    for value, before, gradient in zip((a, b), start, (3.0, 4.0), strict=True):
        np.testing.assert_allclose(before - value.numpy(), gradient / 50**0.5, rtol=1e-5)


def test_accumulate_splits_each_batch_in_order():
    assert loader.parts_of([[3, 1, 2, 0], [7, 5, 6, 4]], 2) == [[3, 1], [2, 0], [7, 5], [6, 4]]


def test_accumulate_that_does_not_divide_the_share_offers_the_nearest():
    loader.check_batch(12, 100, 2, 3)
    with pytest.raises(ConfigError, match=r"2 processes of 3 parts each.*nearest: 6 or 12"):
        loader.check_batch(8, 100, 2, 3)
