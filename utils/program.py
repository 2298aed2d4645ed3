"""A network as a compiled Program: for training, for export, and for the oneDNN predictor on CPU."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.inference
from paddle import nn
from paddle.static import InputSpec

from utils import device
from utils.errors import ConfigError
from utils.precision import Precision, in_float32
from utils.registry import ModelSpec

log = logging.getLogger(__name__)
Infer = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
AGREEMENT = 1e-4  # of the output's scale, between the predictor and eager


class _Outputs(nn.Layer):
    """The network with the row's outputs as a tuple: a saved Program does not keep names."""

    def __init__(self, network: nn.Layer, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.names = network, names

    def forward(self, inputs):
        outputs = self.network(*inputs)
        return tuple(outputs[name] for name in self.names)


class _Listed(nn.Layer):
    """The network with its inputs as a list: a compiled forward cannot take any number of them."""

    def __init__(self, network: nn.Layer) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return self.network(*inputs)


class _Compiled(nn.Layer):
    """Compiles at the first batch, when shapes and types are known."""

    def __init__(self, network: nn.Layer, spec: ModelSpec) -> None:
        super().__init__()
        self.listed, self.spec, self.program = _Listed(network), spec, None

    def forward(self, *inputs):
        if self.program is None:
            # Ragged batches share a Program of free length; others get one a shape, which may be faster.
            ragged = any(f"{name}_length" in self.spec.inputs for name in self.spec.inputs)
            shapes = [_input_specs(self.spec, inputs)] if ragged else None
            self.program = paddle.jit.to_static(self.listed, input_spec=shapes, full_graph=True)
        return self.program(list(inputs))


def compiled(network: nn.Layer, spec: ModelSpec) -> nn.Layer:
    """The same network, run as a Program (``--to_static=True``)."""
    return _Compiled(network, spec)


def _input_specs(spec: ModelSpec, examples: Sequence[Any]) -> list[InputSpec]:
    """Of arrays or tensors like ``examples``, one for each of ``spec.inputs``.

    The batch axis is free, and so is the next one of what comes with its lengths.
    """
    specs = []
    for name, example in zip(spec.inputs, examples, strict=True):
        free = 2 if f"{name}_length" in spec.inputs else 1
        shape = [None] * free + list(example.shape[free:])
        specs.append(InputSpec(shape, str(example.dtype).split(".")[-1], name))
    return specs


def export(
    network: nn.Layer, spec: ModelSpec, names: tuple[str, ...], example: dict[str, np.ndarray], prefix: str
) -> list[str]:
    """Write the inference Program beside ``prefix``; it gives ``names``. The batch axis is free, and so is
    the time axis of an input ``x`` beside an ``x_length``.

    ``example`` shows the shape and type of each of ``spec.inputs``. Returns the files written: the
    Program (``.json``; ``.pdmodel`` with Paddle 2) and its parameters (``.pdiparams``).
    """
    shapes = _input_specs(spec, [example[name] for name in spec.inputs])
    was_training = network.training
    network.eval()
    paddle.jit.save(_Outputs(network, names), prefix, input_spec=[shapes])
    # Paddle leaves converted forwards on the layers: slower eagerly, and in 2.6 some of them wrong.
    for layer in network.sublayers(include_self=True):
        vars(layer).pop("forward", None)
    if was_training:
        network.train()
    folder, name = os.path.split(prefix)
    written = sorted(file for file in os.listdir(folder or ".") if file.startswith(f"{name}."))
    return [os.path.join(folder, file) for file in written]


def predictor(prefix: str, spec: ModelSpec, names: tuple[str, ...]) -> Infer:
    """Run an exported Program on CPU with oneDNN: dict of input arrays -> dict of output arrays."""
    program = next(f"{prefix}{end}" for end in (".json", ".pdmodel") if Path(f"{prefix}{end}").exists())
    config = paddle.inference.Config(program, f"{prefix}.pdiparams")
    config.disable_gpu()
    config.disable_glog_info()
    config.set_cpu_math_library_num_threads(device.num_threads())
    config.enable_mkldnn()
    engine = paddle.inference.create_predictor(config)

    def infer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name in spec.inputs:
            engine.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(inputs[name]))
        engine.run()
        values = [engine.get_output_handle(name).copy_to_cpu() for name in engine.get_output_names()]
        return dict(zip(names, values, strict=True))

    return infer


def precision(level: str | None, on: str, to_static: bool) -> Precision:
    """What ``--amp`` means on this device. Raises ConfigError with ``--to_static``."""
    if level and to_static:
        raise ConfigError("--amp and --to_static=True: a compiled Program is float32; leave one of them out")
    return Precision(level, on)


def eager(
    network: nn.Layer, spec: ModelSpec, names: tuple[str, ...], precision: Precision | None = None
) -> Infer:
    """Run the network itself: dict of input arrays -> dict of output arrays."""
    arithmetic = precision.arithmetic if precision else nullcontext

    def infer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        network.eval()
        with paddle.no_grad(), arithmetic():
            outputs = network(*(paddle.to_tensor(inputs[name]) for name in spec.inputs))
        return {name: value.numpy() for name, value in in_float32(outputs).items() if name in names}

    return infer


def inference(
    network: nn.Layer, spec: ModelSpec, on_gpu: bool, to_static: bool, precision: Precision | None = None
) -> Infer:
    """The fastest right path for this model on this device; the log names it. ``--amp`` runs eagerly.

    A network of several stages has an ``inference`` of its own, which puts theirs together.

    On CPU the oneDNN predictor, built at the first batch and compared with eager on it; where they do
    not agree to ``AGREEMENT``, or the row says so, eager.
    """
    if hasattr(network, "inference"):
        return network.inference(spec, on_gpu, to_static, precision)
    if to_static:
        log.info("inference path: compiled Program")
        return eager(compiled(network, spec), spec, spec.evaluated)
    if precision and precision.level:
        log.info("inference path: eager, %s", precision)
        return eager(network, spec, spec.evaluated, precision)
    if on_gpu or spec.cpu_path == "eager":
        reason = "" if on_gpu or not spec.cpu_path_reason else f" ({spec.cpu_path_reason})"
        log.info("inference path: eager%s", reason)
        return eager(network, spec, spec.evaluated)
    onednn = OneDNN(network, spec)
    if spec.onednn_from == 1:
        return onednn
    log.info("inference path: eager below a batch of %d, where it is faster", spec.onednn_from)
    plain = eager(network, spec, spec.evaluated)

    def infer(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        path = onednn if len(inputs[spec.inputs[0]]) >= spec.onednn_from else plain
        return path(inputs)

    return infer


class OneDNN:
    """Builds the predictor at the first batch, when the shapes are known, and checks it there.

    ``agrees`` then says whether the predictor is used, or eager, because it gives other numbers.
    """

    def __init__(self, network: nn.Layer, spec: ModelSpec) -> None:
        self.network, self.spec, self.names = network, spec, spec.evaluated
        self.run: Infer | None = None
        self.agrees: bool | None = None

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.run is not None:
            return self.run(inputs)
        plain = eager(self.network, self.spec, self.names)
        expected = plain(inputs)
        with tempfile.TemporaryDirectory() as folder:
            prefix = os.path.join(folder, "program")
            export(self.network, self.spec, self.names, inputs, prefix)
            self.run = predictor(prefix, self.spec, self.names)
        got = self.run(inputs)
        error = max(difference(got[name], expected[name]) for name in self.names)
        self.agrees = error <= AGREEMENT
        if self.agrees:
            log.info("inference path: oneDNN predictor (agrees with eager to %.1e)", error)
            return got
        log.warning(
            "inference path: eager; the oneDNN predictor differs by %.1e > %.0e on the first batch",
            error,
            AGREEMENT,
        )
        self.run = plain
        return expected


def loss_function(network: nn.Layer) -> Callable[[dict, dict], dict[str, np.ndarray]]:
    """``network.loss`` on arrays, for evaluation."""

    def loss(outputs: dict[str, np.ndarray], batch: dict) -> dict[str, np.ndarray]:
        with paddle.no_grad():
            tensors = [
                {k: paddle.to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in group.items()}
                for group in (outputs, batch)
            ]
            return {name: value.numpy() for name, value in network.loss(*tensors).items()}

    return loss


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference relative to the scale of ``b``; infinite where either is not finite."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) if a.size else 0.0
