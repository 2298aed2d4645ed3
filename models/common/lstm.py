"""The LSTM of 2019: peepholes, ragged batches, both directions; exact, and about as fast as its products.

One step of the sequences that still run (Gers et al., JMLR 2002), x being the gates' inputs:

    a = tanh(x_a + h W_a)              the candidate
    i = sigmoid(x_i + h W_i + c p_i)   c is the previous cell
    f = sigmoid(x_f + h W_f + c p_f)
    c' = f c + i a
    o = sigmoid(x_o + h W_o + c' p_o)  the output gate looks at the new cell
    h' = o tanh(c')

Eager: the rows of a batch are laid out step by step, longest sequence first. One product makes the inputs
of all steps, each step is one product over the sequences that still run, and padding costs nothing. The
backward pass is written by hand: the gradient of W is one product over all steps, where autodiff would
add up one a step. In a Program the steps are a loop over the padded batch, whose length stays free.
Shapes: N sequences, T steps of the longest, S = sum of the lengths, E input and H hidden features.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn.initializer import Constant
from paddle.tensor.manipulation import tensor_array_to_tensor

from models.common.layers import linear
from models.common.ragged import by_step, by_step_padded, inside_mask
from utils.precision import float32_arithmetic


class PeepholeLSTM(nn.Layer):
    """``(N, T, E)`` and lengths ``(N,)`` to ``(N, T, H)``; 0 behind the end of a sequence.

    Args:
        input_size, hidden_size: E, H.
        projection: 2019 name of the layer that makes the gates' inputs: ``<projection>.w_0`` ``(E, 4H)``.
        recurrence: of the LSTM: ``<recurrence>.w_0`` ``(H, 4H)``, columns candidate, i, f, o;
            ``<recurrence>.b_0`` ``(1, 7H)``, four biases in that order and the peepholes of i, f, o.
        bias: the projection has one, too (``<projection>.b_0``).
        reverse: each sequence is walked from its own end; its output stays where its input was.
    """

    def __init__(
        self, input_size: int, hidden_size: int, projection: str, recurrence: str, bias: bool, reverse: bool
    ) -> None:
        super().__init__()
        self.hidden_size, self.reverse = hidden_size, reverse
        self.projection = linear(input_size, 4 * hidden_size, projection, bias)
        weight = ParamAttr(name=f"{recurrence}.w_0")
        self.weight = self.create_parameter([hidden_size, 4 * hidden_size], attr=weight)
        bias = ParamAttr(name=f"{recurrence}.b_0", initializer=Constant(0.0))
        self.bias = self.create_parameter([1, 7 * hidden_size], attr=bias)

    def forward(self, x: Tensor, length: Tensor) -> Tensor:
        width = self.hidden_size
        num_sequences, num_steps = paddle.shape(x)[0], paddle.shape(x)[1]
        if paddle.in_dynamic_mode():
            order, back, running = by_step(length.numpy(), x.shape[1], self.reverse)
        else:
            order, back = by_step_padded(length, num_sequences, num_steps, self.reverse)
            running = None
        rows = paddle.gather(x.reshape([-1, x.shape[2]]), order)  # (N, T, E) -> (S, E), step by step
        gates = self.projection(rows) + self.bias[:, : 4 * width]  # (S, 4H)
        peepholes = self.bias[:, 4 * width :].reshape([3, width])
        if running is None:
            gates = gates.reshape([num_steps, num_sequences, 4 * width])
            hidden = _recurrence_of_program(gates, self.weight, peepholes)  # (T, N, H)
            hidden = hidden.reshape([-1, width])
        else:
            with float32_arithmetic():
                gates = gates.astype(self.weight.dtype)
                hidden = _Recurrence.apply(gates, self.weight, peepholes, running)  # (S, H)
        hidden = paddle.gather(hidden, back).reshape([num_sequences, num_steps, width])  # (N, T, H)
        inside = inside_mask(length, num_steps).astype(hidden.dtype)
        return hidden * inside.unsqueeze(2)


# ---- one step, forward and backward -------------------------------------------------------------------


def _step(gates: Tensor, cell: Tensor, peepholes: Tensor) -> tuple[Tensor, ...]:
    """``gates`` ``(n, 4H)`` before their activations; the four after them, the new cell and its tanh."""
    a, i, f, o = paddle.split(gates, 4, axis=1)
    a = paddle.tanh(a)
    i = F.sigmoid(i + cell * peepholes[0])
    f = F.sigmoid(f + cell * peepholes[1])
    cell = f * cell + i * a
    o = F.sigmoid(o + cell * peepholes[2])
    return a, i, f, o, cell, paddle.tanh(cell)


def _step_back(
    d_hidden: Tensor, d_cell: Tensor, before: Tensor, gates: tuple[Tensor, ...], peepholes: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of a step's gates ``(n, 4H)``, before their activations, and of the cell ``before`` it.

    ``d_hidden`` and ``d_cell`` are those of the step's own hidden state and cell, ``gates`` what
    ``_step`` gave.
    """
    a, i, f, o, _, squashed = gates
    d_o = d_hidden * squashed * (o - o * o)
    d_cell = d_cell + d_hidden * o * (1 - squashed * squashed) + d_o * peepholes[2]
    d_a = d_cell * i * (1 - a * a)
    d_i = d_cell * a * (i - i * i)
    d_f = d_cell * before * (f - f * f)
    d_before = d_cell * f + d_i * peepholes[0] + d_f * peepholes[1]
    return paddle.concat([d_a, d_i, d_f, d_o], axis=1), d_before


def _parameter_gradients(
    d_gates: Tensor, hidden_before: Tensor, cell_before: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Of the weight ``(H, 4H)`` and the peepholes ``(3, H)``, from ``(S, ·)`` of all steps."""
    _, d_i, d_f, d_o = paddle.split(d_gates, 4, axis=1)
    d_peepholes = [(d_i * cell_before).sum(axis=0), (d_f * cell_before).sum(axis=0), (d_o * cell).sum(axis=0)]
    return paddle.matmul(hidden_before, d_gates, transpose_x=True), paddle.stack(d_peepholes)


# ---- eager --------------------------------------------------------------------------------------------


class _Recurrence(PyLayer):
    """Gates' inputs ``(S, 4H)``, ``running[t]`` rows of them for step t, to hidden ``(S, H)``."""

    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, peepholes: Tensor, running: list[int]) -> Tensor:
        inputs = paddle.split(gates, running)
        hidden = cell = paddle.zeros([running[0], weight.shape[0]], dtype=gates.dtype)
        steps, all_hidden = [], []
        for t, count in enumerate(running):
            hidden, cell = hidden[:count], cell[:count]
            # Column-wise sums of h W and its inputs in one pass; the first h is 0.
            summed = paddle.addmm(inputs[t], hidden, weight) if t else inputs[0]
            steps.append(_step(summed, cell, peepholes))
            cell = steps[-1][4]
            hidden = steps[-1][3] * steps[-1][5]
            all_hidden.append(hidden)
        ctx.save_for_backward(weight, peepholes)
        ctx.steps, ctx.all_hidden, ctx.running = steps, all_hidden, running
        return paddle.concat(all_hidden)

    @staticmethod
    def backward(ctx, d_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, peepholes = ctx.saved_tensor()
        running, width = ctx.running, weight.shape[0]
        d_outputs = paddle.split(d_output, running)
        zeros = paddle.zeros([running[0], width], dtype=d_output.dtype)
        d_hidden = d_cell = zeros[: running[-1]]
        d_gates, hidden_before, cell_before = [], [], []  # of all steps, last first
        for t in reversed(range(len(running))):
            started = running[t] - d_hidden.shape[0]  # sequences that end here
            if started:
                d_hidden = paddle.concat([d_hidden, zeros[:started]])
                d_cell = paddle.concat([d_cell, zeros[:started]])
            before = ctx.steps[t - 1][4][: running[t]] if t else zeros
            hidden_before.append(ctx.all_hidden[t - 1][: running[t]] if t else zeros)
            cell_before.append(before)
            d_step, d_cell = _step_back(d_hidden + d_outputs[t], d_cell, before, ctx.steps[t], peepholes)
            d_hidden = paddle.matmul(d_step, weight, transpose_y=True) if t else None
            d_gates.append(d_step)
        d_inputs = paddle.concat(d_gates[::-1])
        cell = paddle.concat([step[4] for step in ctx.steps])
        before = paddle.concat(hidden_before[::-1]), paddle.concat(cell_before[::-1])
        return d_inputs, *_parameter_gradients(d_inputs, *before, cell)


# ---- in a Program -------------------------------------------------------------------------------------


def _recurrence_of_program(gates: Tensor, weight: Tensor, peepholes: Tensor) -> Tensor:
    """Gates' inputs ``(T, N, 4H)`` to hidden ``(T, N, H)``."""
    if paddle.framework.in_pir_mode():  # Paddle 3 cannot differentiate such a loop by itself
        return _ProgramRecurrence.apply(gates, weight, peepholes)
    return _loop(gates, weight, peepholes)[0]


def _loop(gates: Tensor, weight: Tensor, peepholes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden, cell ``(T, N, H)`` and gates ``(T, N, 4H)`` after their activations."""
    num_steps = paddle.shape(gates)[0:1].astype("int64")
    shape = [paddle.shape(gates)[1], weight.shape[0]]
    hidden, cell = (paddle.zeros(shape, dtype=gates.dtype) for _ in range(2))  # one each: Paddle 2 fills it
    arrays = [paddle.tensor.create_array(gates.dtype) for _ in range(3)]

    def body(t, hidden, cell, *arrays):
        here = paddle.gather(gates, t).squeeze(0)  # (N, 4H)
        a, i, f, o, cell, squashed = _step(here + paddle.matmul(hidden, weight), cell, peepholes)
        hidden = o * squashed
        values = (hidden, cell, paddle.concat([a, i, f, o], axis=1))
        arrays = [paddle.tensor.array_write(value, t, arrays[i]) for i, value in enumerate(values)]
        return [t + 1, hidden, cell, *arrays]

    start = paddle.zeros([1], dtype=num_steps.dtype)
    state = [start, hidden, cell, *arrays]
    state = paddle.static.nn.while_loop(lambda t, *_: t < num_steps, body, state)
    return tuple(tensor_array_to_tensor(array, axis=0, use_stack=True)[0] for array in state[3:])


class _ProgramRecurrence(PyLayer):
    @staticmethod
    def forward(ctx, gates: Tensor, weight: Tensor, peepholes: Tensor) -> Tensor:
        hidden, cell, gates = _loop(gates, weight, peepholes)
        ctx.save_for_backward(weight, peepholes, hidden, cell, gates)
        hidden.stop_gradient = False  # a loop's results have it set
        return hidden

    @staticmethod
    def backward(ctx, d_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, peepholes, hidden, cell, gates = ctx.saved_tensor()
        width = weight.shape[0]
        zeros = paddle.zeros_like(cell[:1])  # (1, N, H)
        hidden_before = paddle.concat([zeros, hidden[:-1]])
        cell_before = paddle.concat([zeros, cell[:-1]])
        squashed = paddle.tanh(cell)
        last = paddle.shape(gates)[0:1].astype("int64") - 1

        def body(k, d_hidden, d_cell, array):
            all_steps = (d_output, cell_before, gates, cell, squashed)
            here = [paddle.gather(value, last - k).squeeze(0) for value in all_steps]
            d_here, before, activated, *rest = here
            step = (*paddle.split(activated, 4, axis=1), *rest)
            d_step, d_cell = _step_back(d_hidden + d_here, d_cell, before, step, peepholes)
            array = paddle.tensor.array_write(d_step, k, array)
            return [k + 1, paddle.matmul(d_step, weight, transpose_y=True), d_cell, array]

        start = paddle.zeros([1], dtype=last.dtype)
        state = [start, zeros[0], zeros[0], paddle.tensor.create_array(gates.dtype)]
        state = paddle.static.nn.while_loop(lambda k, *_: k <= last, body, state)
        d_gates = tensor_array_to_tensor(state[3], axis=0, use_stack=True)[0].flip([0])
        rows = [v.reshape([-1, width]) for v in (hidden_before, cell_before, cell)]
        return d_gates, *_parameter_gradients(d_gates.reshape([-1, 4 * width]), *rows)
