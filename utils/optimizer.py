"""Optimizers with the 2019 rules: raw gradient -> clip -> + weight decay -> update.

The decay is L2 on every parameter without a rule of its own (``ParamAttr(regularizer=…)``); a step
counter starts at 0 and the rate is ``values[i]`` while ``step < boundaries[i]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import paddle
from paddle.optimizer.lr import LambdaDecay, LRScheduler, PiecewiseDecay


def step_decay(learning_rate: float, gamma: float, boundaries: Sequence[float]) -> PiecewiseDecay | float:
    """Rate times ``gamma`` after each boundary, in steps; boundaries need not be whole numbers."""
    if not boundaries:
        return learning_rate
    values = [learning_rate * gamma**i for i in range(len(boundaries) + 1)]
    return PiecewiseDecay(boundaries=list(boundaries), values=values)


def momentum(
    schedule: LRScheduler | float,
    parameters: Sequence[paddle.Tensor],
    mu: float,
    weight_decay: float,
    nesterov: bool = False,
) -> paddle.optimizer.Momentum:
    """``v = mu * v + g; w -= lr * v`` (Nesterov: ``w -= lr * (g + mu * v)``)."""
    return paddle.optimizer.Momentum(
        learning_rate=schedule,
        momentum=mu,
        parameters=list(parameters),
        weight_decay=paddle.regularizer.L2Decay(weight_decay),
        use_nesterov=nesterov,
    )


def rmsprop(
    schedule: LRScheduler | float, parameters: Sequence[paddle.Tensor], weight_decay: float
) -> paddle.optimizer.RMSProp:
    """Centered: ``w -= lr * g / sqrt(E[g^2] - E[g]^2 + 1e-6)``, means with 0.95; no momentum."""
    return paddle.optimizer.RMSProp(
        learning_rate=schedule,
        rho=0.95,
        epsilon=1e-6,
        momentum=0.0,
        centered=True,
        parameters=list(parameters),
        weight_decay=paddle.regularizer.L2Decay(weight_decay),
    )


def noam_decay(size: int, warmup_steps: int, factor: float = 1.0) -> LambdaDecay:
    """``factor * size^-0.5 * min(n^-0.5, n * warmup_steps^-1.5)`` at the n-th step, from n = 1 on."""

    def rate(steps_done: int) -> float:
        n = steps_done + 1
        return size**-0.5 * min(n**-0.5, n * warmup_steps**-1.5)

    return LambdaDecay(factor, rate)


def adam(
    schedule: LRScheduler | float,
    parameters: Sequence[paddle.Tensor],
    weight_decay: float | None = None,
    clip_norm: float | None = None,
    plain_epsilon: bool = False,
) -> paddle.optimizer.Adam:
    """Beta 0.9 and 0.999, epsilon 1e-8 (which Paddle 3 scales with the bias correction, Fluid did not).

    ``clip_norm``: all gradients together, before the decay is added, are scaled down to this norm.
    ``plain_epsilon``: as Fluid, which moves less in the first steps where gradients are below 1e-5.
    """
    kind = _PlainEpsilonAdam if plain_epsilon else paddle.optimizer.Adam
    return kind(
        learning_rate=schedule,
        parameters=list(parameters),
        weight_decay=paddle.regularizer.L2Decay(weight_decay) if weight_decay else None,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(clip_norm) if clip_norm else None,
    )


class _PlainEpsilonAdam(paddle.optimizer.Adam):
    """``w -= lr_t * m / (sqrt(v) + 1e-8)``: Paddle's has ``1e-8 * sqrt(1 - beta2^t)`` there."""

    def _append_optimize_op(self, block, param_and_grad):
        power = self._get_accumulator_master(self._beta2_pow_acc_str, param_and_grad[0])  # beta2^t
        self._epsilon = 1e-8 / (1.0 - power.item()) ** 0.5
        return super()._append_optimize_op(block, param_and_grad)


def clip(optimizer: paddle.optimizer.Optimizer, norm: float) -> None:
    """Scale all gradients together, before the decay is added, down to ``norm`` from now on."""
    optimizer._grad_clip = paddle.nn.ClipGradByGlobalNorm(norm)


def advance(optimizer: paddle.optimizer.Optimizer) -> None:
    """Count one step of the learning-rate schedule, if there is one."""
    schedule = optimizer._learning_rate
    if isinstance(schedule, LRScheduler):
        schedule.step()


def set_step(optimizer: paddle.optimizer.Optimizer, step: int) -> None:
    """Put the learning-rate schedule where it is after ``step`` steps."""
    schedule = optimizer._learning_rate
    if isinstance(schedule, LRScheduler):
        schedule.step(step)


def fresh_names() -> AbstractContextManager[None]:
    """Within it accumulators are called ``<parameter>_velocity_0``, whatever this process ran before."""
    return paddle.utils.unique_name.guard()
