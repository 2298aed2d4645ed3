"""The GRU of 2019 over ragged batches, with gradients written by hand, and one step of it.

One step of the sequences that still run (Cho et al., EMNLP 2014), x being the gates' inputs:

    u = sigmoid(x_u + h W_u)           how much of the state is renewed
    r = sigmoid(x_r + h W_r)           how much of it the candidate sees
    c = tanh(x_c + (r h) W_c)          the candidate
    h' = (1 - u) h + u c

Eager and in a Program it runs as the LSTM beside it does, for the same reasons: ``models/common/lstm.py``.
Shapes: N sequences, T steps of the longest, S = sum of the lengths, E input and H hidden features.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn.initializer import Constant
from paddle.tensor.manipulation import tensor_array_to_tensor

from models.common.layers import xavier
from models.common.ragged import by_step, by_step_padded, inside_mask
from utils.precision import float32_arithmetic


class GRU(nn.Layer):
    """``(N, T, E)`` and lengths ``(N,)`` to ``(N, T, H)``; 0 behind the end of a sequence.

    Its parameters are ``<name>.w_0`` and ``<name>.b_0`` ``(1, 3H)``, which holds the biases of u, r, c. 2019
    declared the weight ``(H, 3H)``, but its memory is two matrices, one behind the other: ``(H, 2H)`` of u
    and r, and ``(H, H)`` of c.

    Args:
        projection: makes the gates' inputs ``(·, 3H)`` from features ``(·, E)``; None: they are given.
        reverse: each sequence is walked from its own end; its output stays where its input was.
    """

    def __init__(
        self, hidden_size: int, name: str, projection: nn.Layer | None = None, reverse: bool = False
    ) -> None:
        super().__init__()
        self.hidden_size, self.projection, self.reverse = hidden_size, projection, reverse
        weight = ParamAttr(name=f"{name}.w_0", initializer=xavier(hidden_size, 3 * hidden_size))
        self.weight = self.create_parameter([hidden_size, 3 * hidden_size], attr=weight)
        bias = ParamAttr(name=f"{name}.b_0", initializer=Constant(0.0))
        self.bias = self.create_parameter([1, 3 * hidden_size], attr=bias)

    def forward(self, x: Tensor, length: Tensor, start: Tensor | None = None) -> Tensor:
        """``start`` ``(N, H)`` is the state before the first step; None: zeros. No length is 0."""
        width = self.hidden_size
        num_sequences, num_steps = paddle.shape(x)[0], paddle.shape(x)[1]
        if start is None:
            start = paddle.zeros([num_sequences, width], dtype=x.dtype)
            # A Program of Paddle 2 would take the states after it for constants, too.
            start.stop_gradient = paddle.in_dynamic_mode()
        if paddle.in_dynamic_mode():
            order, back, running = by_step(length.numpy(), x.shape[1], self.reverse)
            start = paddle.gather(start, order[: running[0]] // x.shape[1])  # longest sequence first
        else:
            order, back = by_step_padded(length, num_sequences, num_steps, self.reverse)
            running = None
        rows = paddle.gather(x.reshape([-1, x.shape[2]]), order)  # (N, T, E) -> (S, E), step by step
        gates = (rows if self.projection is None else self.projection(rows)) + self.bias  # (S, 3H)
        if running is None:
            gates = gates.reshape([num_steps, num_sequences, 3 * width])
            hidden = _recurrence_of_program(gates, self.weight, start)  # (T, N, H)
            hidden = hidden.reshape([-1, width])
        else:
            with float32_arithmetic():
                gates, start = (value.astype(self.weight.dtype) for value in (gates, start))
                hidden = _Recurrence.apply(gates, self.weight, start, running)  # (S, H)
        hidden = paddle.gather(hidden, back).reshape([num_sequences, num_steps, width])  # (N, T, H)
        return hidden * inside_mask(length, num_steps).astype(hidden.dtype).unsqueeze(2)

    def step(self, gates: Tensor, hidden: Tensor) -> Tensor:
        """One step: the gates' inputs ``(N, 3H)`` and the state ``(N, H)`` to the next state."""
        return _step(gates + self.bias, hidden, *_matrices(self.weight))[3]


def _matrices(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The weight's two blocks of memory: ``(H, 2H)`` of u and r, ``(H, H)`` of c."""
    width = weight.shape[0]
    flat = weight.flatten()
    split = 2 * width * width
    return flat[:split].reshape([width, 2 * width]), flat[split:].reshape([width, width])


# ---- one step, forward and backward -------------------------------------------------------------------


def _step(gates: Tensor, hidden: Tensor, of_gates: Tensor, of_candidate: Tensor) -> tuple[Tensor, ...]:
    """``gates`` ``(n, 3H)`` without the state's part, ``hidden`` ``(n, H)``; u, r, c and the new state."""
    inputs, candidate = paddle.split(gates, [2 * hidden.shape[1], hidden.shape[1]], axis=1)
    u, r = paddle.split(F.sigmoid(inputs + paddle.matmul(hidden, of_gates)), 2, axis=1)
    c = paddle.tanh(candidate + paddle.matmul(r * hidden, of_candidate))
    return u, r, c, hidden + u * (c - hidden)


def _step_back(
    d_hidden: Tensor, before: Tensor, activated: tuple[Tensor, ...], of_gates: Tensor, of_candidate: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of a step's gates ``(n, 3H)`` and of the state ``before`` it; ``activated`` are u, r, c."""
    u, r, c = activated
    d_c = d_hidden * u * (1 - c * c)
    d_seen = paddle.matmul(d_c, of_candidate, transpose_y=True)  # of r * before
    d_u = d_hidden * (c - before) * (u - u * u)
    d_r = d_seen * before * (r - r * r)
    d_gates = paddle.concat([d_u, d_r], axis=1)
    d_before = d_hidden * (1 - u) + d_seen * r + paddle.matmul(d_gates, of_gates, transpose_y=True)
    return paddle.concat([d_gates, d_c], axis=1), d_before


def _weight_gradient(d_gates: Tensor, before: Tensor, r: Tensor) -> Tensor:
    """``(H, 3H)`` in the weight's order of memory, from ``(S, ·)`` of all steps."""
    width = before.shape[1]
    d_inputs, d_c = paddle.split(d_gates, [2 * width, width], axis=1)
    of_gates = paddle.matmul(before, d_inputs, transpose_x=True)
    of_candidate = paddle.matmul(r * before, d_c, transpose_x=True)
    return paddle.concat([of_gates.flatten(), of_candidate.flatten()]).reshape([width, 3 * width])


# ---- eager --------------------------------------------------------------------------------------------


class _Recurrence(PyLayer):
    """Gates' inputs ``(S, 3H)``, ``running[t]`` rows of them for step t, to hidden ``(S, H)``."""

    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, start: Tensor, running: list[int]) -> Tensor:
        matrices, hidden = _matrices(weight), start
        before, activated, all_hidden = [], [], []
        for here in paddle.split(gates, running):
            before.append(hidden[: here.shape[0]])
            *gates_of_step, hidden = _step(here, before[-1], *matrices)
            activated.append(gates_of_step)
            all_hidden.append(hidden)
        ctx.save_for_backward(weight)
        ctx.before, ctx.activated, ctx.running = before, activated, running
        ctx.learns_start = not start.stop_gradient
        return paddle.concat(all_hidden)

    @staticmethod
    def backward(ctx, d_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (weight,) = ctx.saved_tensor()
        matrices, running = _matrices(weight), ctx.running
        d_outputs = paddle.split(d_output, running)
        zeros = paddle.zeros([running[0], weight.shape[0]], dtype=d_output.dtype)
        d_hidden, d_gates = zeros[: running[-1]], []
        for t in reversed(range(len(running))):
            started = running[t] - d_hidden.shape[0]  # sequences that end here
            if started:
                d_hidden = paddle.concat([d_hidden, zeros[:started]])
            d_step, d_hidden = _step_back(d_hidden + d_outputs[t], ctx.before[t], ctx.activated[t], *matrices)
            d_gates.append(d_step)
        d_gates = paddle.concat(d_gates[::-1])
        r = paddle.concat([of_step[1] for of_step in ctx.activated])
        d_weight = _weight_gradient(d_gates, paddle.concat(ctx.before), r)
        return d_gates, d_weight, d_hidden if ctx.learns_start else None  # None is what Paddle asks for


# ---- in a Program -------------------------------------------------------------------------------------


def _recurrence_of_program(gates: Tensor, weight: Tensor, start: Tensor) -> Tensor:
    """Gates' inputs ``(T, N, 3H)`` to hidden ``(T, N, H)``."""
    if paddle.framework.in_pir_mode():  # Paddle 3 cannot differentiate such a loop by itself
        return _ProgramRecurrence.apply(gates, weight, start)
    return _loop(gates, weight, start)[0]


def _loop(gates: Tensor, weight: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden ``(T, N, H)``, and u, r, c together ``(T, N, 3H)``."""
    num_steps = paddle.shape(gates)[0:1].astype("int64")
    matrices = _matrices(weight)
    arrays = [paddle.tensor.create_array(gates.dtype) for _ in range(2)]

    def body(t, hidden, *arrays):
        hidden = hidden + (t == 0).astype(start.dtype) * start  # Paddle 2 differentiates no other beginning
        u, r, c, hidden = _step(paddle.gather(gates, t).squeeze(0), hidden, *matrices)
        values = (hidden, paddle.concat([u, r, c], axis=1))
        arrays = [paddle.tensor.array_write(value, t, arrays[i]) for i, value in enumerate(values)]
        return [t + 1, hidden, *arrays]

    zeros = paddle.zeros([paddle.shape(gates)[1], weight.shape[0]], dtype=gates.dtype)
    state = [paddle.zeros([1], dtype=num_steps.dtype), zeros, *arrays]
    state = paddle.static.nn.while_loop(lambda t, *_: t < num_steps, body, state)
    return tuple(tensor_array_to_tensor(array, axis=0, use_stack=True)[0] for array in state[2:])


class _ProgramRecurrence(PyLayer):
    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, start: Tensor) -> Tensor:
        hidden, activated = _loop(gates, weight, start)
        ctx.save_for_backward(weight, start, hidden, activated)
        hidden.stop_gradient = False  # a loop's results have it set
        return hidden

    @staticmethod
    def backward(ctx, d_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, start, hidden, activated = ctx.saved_tensor()
        width, matrices = weight.shape[0], _matrices(weight)
        before = paddle.concat([start.unsqueeze(0), hidden[:-1]])
        last = paddle.shape(activated)[0:1].astype("int64") - 1

        def body(k, d_hidden, array):
            here = [paddle.gather(value, last - k).squeeze(0) for value in (d_output, before, activated)]
            gates = paddle.split(here[2], 3, axis=1)
            d_step, d_hidden = _step_back(d_hidden + here[0], here[1], gates, *matrices)
            return [k + 1, d_hidden, paddle.tensor.array_write(d_step, k, array)]

        state = [
            paddle.zeros([1], dtype=last.dtype),
            paddle.zeros_like(start),
            paddle.tensor.create_array(d_output.dtype),
        ]
        state = paddle.static.nn.while_loop(lambda k, *_: k <= last, body, state)
        d_gates = tensor_array_to_tensor(state[2], axis=0, use_stack=True)[0].flip([0])
        r = activated[:, :, width : 2 * width]
        rows = [value.reshape([-1, value.shape[2]]) for value in (d_gates, before, r)]
        return d_gates, _weight_gradient(*rows), state[1]
