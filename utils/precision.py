"""Mixed precision (``--amp=O1|O2``): 16-bit arithmetic between parameters that stay float32.

O1 casts the operands of matrix products and convolutions, O2 those of everything but what needs float32's
range (Paddle's lists). In both the parameters are the master weights: each use casts a copy, gradients and
optimizer are float32, and checkpoints are those of a float32 run.

On a GPU this is ``paddle.amp.auto_cast``: bfloat16 from Ampere on, before it float16 with loss scaling
(Micikevicius et al., ICLR 2018). Paddle 3.3 has no bfloat16 kernels for CPUs, and there its auto_cast does
nothing, with a warning. So here operands and results are rounded to bfloat16 and calculated in float32, as
the matrix unit of a GPU does: the numbers of bfloat16, to try a recipe with, but not its speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import paddle
from paddle import Tensor, _C_ops
from paddle.autograd import PyLayer

LEVELS = ("O1", "O2")
# Paddle's own list for O1 leaves these out, although bfloat16 and float16 kernels of them exist.
ALSO_LOW = {"conv3d", "bmm"}
# Operators rounded on a CPU: by O1 the first, by O2 the others, too.
PRODUCTS = (
    *("matmul", "linear", "bmm", "mv", "addmm", "einsum"),
    *("conv2d", "depthwise_conv2d", "conv3d", "conv2d_transpose", "conv3d_transpose"),
)
OTHERS = (
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "relu", "leaky_relu", "sigmoid", "tanh"),
    *("pool2d", "pool3d", "max_pool2d_with_index", "batch_norm", "bilinear_interp", "scale", "clip"),
)
OPERATORS = ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__")  # of Tensor


class Precision:
    """How a network calculates; ``Precision(None, …)`` is float32.

    Args:
        level: None, ``O1`` or ``O2``.
        on: the device, ``cpu`` or ``gpu:N``.
    """

    def __init__(self, level: str | None, on: str) -> None:
        self.level, self.on_cpu = level, on == "cpu"
        self.dtype = _low_type(self.on_cpu) if level else "float32"
        self.loss_scale = LossScale() if self.dtype == "float16" else None

    def __str__(self) -> str:
        if not self.level:
            return "float32"
        more = ", the numbers of a GPU but no faster" if self.on_cpu else ""
        return f"{self.dtype} ({self.level}{more}), float32 parameters"

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Within it operators calculate in this precision."""
        if not self.level:
            yield
        elif self.on_cpu:
            with _rounding(self.level):
                yield
        else:
            low = ALSO_LOW if self.level == "O1" else None
            with paddle.amp.auto_cast(custom_white_list=low, level=self.level, dtype=self.dtype):
                yield


def _low_type(on_cpu: bool) -> str:
    if on_cpu or paddle.device.cuda.get_device_capability()[0] >= 8:  # Ampere
        return "bfloat16"
    return "float16"


def in_float32(outputs: dict[str, Any]) -> dict[str, Any]:
    """What a network gives, for loss, metric and numpy, which has no bfloat16."""
    low = (paddle.float16, paddle.bfloat16)
    return {k: v.astype("float32") if getattr(v, "dtype", None) in low else v for k, v in outputs.items()}


@contextmanager
def float32_arithmetic() -> Iterator[None]:
    """Within it operators calculate in float32 whatever ``--amp`` says: recurrences over many steps.

    Its inputs must be float32 already.
    """
    with paddle.amp.auto_cast(enable=False), ExitStack() as stack:
        for owner, name, plain in list(_replaced):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, plain)
        yield


# ---- on a CPU ------------------------------------------------------------------------------------------

_replaced: list[tuple[Any, str, Callable]] = []  # owner, name and the plain operator


@contextmanager
def _rounding(level: str) -> Iterator[None]:
    """Replaces Paddle's operators by ones that round to bfloat16, forward and backward."""
    names = PRODUCTS + (OTHERS if level == "O2" else ())
    owners = [(_C_ops, name) for name in names if hasattr(_C_ops, name)] + [(Tensor, "__matmul__")]
    if level == "O2":
        owners += [(Tensor, name) for name in OPERATORS]
    try:
        for owner, name in owners:
            plain = getattr(owner, name)
            _replaced.append((owner, name, plain))
            setattr(owner, name, _rounded(plain))
        yield
    finally:
        while _replaced:
            owner, name, plain = _replaced.pop()
            setattr(owner, name, plain)


def _rounded(operator: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        result = operator(*(_round(value) for value in args), **{k: _round(v) for k, v in kwargs.items()})
        if isinstance(result, (list, tuple)):  # batch norm gives its statistics, too
            return type(result)([_round(result[0]), *result[1:]])
        return _round(result)

    return call


def _round(value: Any) -> Any:
    """To bfloat16 and back; its gradient, too, as it goes through two casts."""
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):  # einsum
        return [_round(item) for item in value]
    if isinstance(value, Tensor) and value.dtype == paddle.float32:
        return _cast(value) if _cast_rounds() else _Nearest.apply(value)
    return value


def _cast(value: Tensor) -> Tensor:
    return value.astype("bfloat16").astype("float32")


@cache
def _cast_rounds() -> bool:
    """Paddle 2.6 cuts off the digits that bfloat16 has not."""
    return _cast(paddle.to_tensor(1.0 + 0.9 * 2**-7)).item() > 1.0


class _Nearest(PyLayer):
    """Rounds by a cast that cuts off: what is cut off, added once more, carries from one half on."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        with float32_arithmetic():  # not by the operators that call this
            rest = value - _cast(value)
            return _cast(value + paddle.where(paddle.isfinite(rest), rest, paddle.zeros_like(rest)))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Nearest.forward(ctx, gradient)


# ---- float16 -------------------------------------------------------------------------------------------


class LossScale:
    """Small float16 gradients become 0: the loss is multiplied, the gradients divided by ``scale``.

    A step whose gradients are not finite is left out and halves the scale; it doubles after
    ``patience`` steps in a row that are. It works on any device and is the same on every rank, since the
    gradients are.
    """

    def __init__(self, scale: float = 2.0**15, patience: int = 1000) -> None:
        self.scale, self.patience, self.good_steps = scale, patience, 0

    def unscale(self, parameters: Sequence[Tensor]) -> bool:
        """Divide the gradients; whether all are finite. If not, they must not be used."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        finite = bool(paddle.stack([paddle.isfinite(g).all() for g in gradients]).all())
        if finite:
            with paddle.no_grad():
                for gradient in gradients:
                    gradient.scale_(1.0 / self.scale)
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2.0
        elif self.good_steps == self.patience:
            self.scale, self.good_steps = self.scale * 2.0, 0
        return finite

    def state(self) -> dict[str, float]:
        return {"scale": self.scale, "good_steps": self.good_steps}

    def restore(self, state: dict[str, float]) -> None:
        self.scale, self.good_steps = state["scale"], state["good_steps"]
