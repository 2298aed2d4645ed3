"""From a row and its recipe to network, reader and metric."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import paddle

from utils.config import Config, Sections, resolve
from utils.registry import ModelSpec


def row(spec: ModelSpec, sections: Sections, mode: str, file: str) -> ModelSpec:
    """``spec`` with the inputs that this recipe's network takes, where they depend on the recipe."""
    part = spec.part("network")
    if not hasattr(part, "inputs"):
        return spec
    return replace(spec, inputs=part.inputs(network_config(spec, sections, mode, file)))


def network(spec: ModelSpec, sections: Sections, mode: str, file: str, seed: int = 0) -> paddle.nn.Layer:
    """A freshly initialised network; the same seed gives the same values."""
    config = network_config(spec, sections, mode, file)
    paddle.seed(seed)
    with paddle.utils.unique_name.guard():
        return spec.part("network")(config)


def predicting(network: paddle.nn.Layer, spec: ModelSpec) -> tuple[paddle.nn.Layer, ModelSpec]:
    """What evaluation and prediction run, and its row, which names no loss where there is none."""
    if spec.prediction is None:
        return network, spec
    made = spec.prediction
    nothing = {"losses": (), "loss_inputs": (), "targets": ()}
    row = replace(spec, inputs=made.inputs, outputs=made.outputs, **nothing)
    return getattr(network, made.maker)(), row


def network_config(spec: ModelSpec, sections: Sections, mode: str, file: str) -> Config:
    return resolve(spec.part("network").Config, sections, mode, file)


def reader(spec: ModelSpec, sections: Sections, mode: str, file: str, seed: int = 0) -> Any:
    part = spec.part("reader")
    return part(resolve(part.Config, sections, mode, file), mode, seed)


def example_inputs(spec: ModelSpec, sections: Sections, mode: str, file: str) -> dict[str, np.ndarray]:
    """A batch of one, with the shapes and types that the reader gives the network."""
    part = spec.part("reader")
    return part.example(resolve(part.Config, sections, mode, file))


def metric(spec: ModelSpec, sections: Sections, mode: str, file: str) -> Any:
    part = spec.part("metric")
    made = part(resolve(part.Config, sections, mode, file))
    if mode in ("TEST", "INFER") and hasattr(made, "prepare"):
        made.prepare()
    return made


def solver(spec: ModelSpec, sections: Sections, file: str) -> Any:
    return resolve(spec.part("solver"), sections, "TRAIN", file)
