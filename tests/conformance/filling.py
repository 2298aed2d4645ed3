"""Parameter values and inputs of the recorded cases, made anew: a pure function of their names.

Only ``numpy.random.RandomState``'s frozen streams are used, seeded by the CRC-32 of the name, so the
values do not depend on the version of numpy.
"""

from __future__ import annotations

import zlib

import numpy as np


def stream(key: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(key.encode("utf-8")))


def fill(name: str, shape: list[int], kind: str, salt: str = "") -> np.ndarray:
    """Value of one parameter, float32. Weights are centred over their fan-in with std sqrt(2 / fan-in)."""
    if name == "pred_w" and len(shape) == 5:  # NONLOCAL's classifier as a convolution: that of training
        return fill(name, [shape[1], shape[0]], kind, salt).T.reshape(shape)
    rng = stream(name + salt)
    if kind == "weight":
        value = rng.standard_normal(shape)
        axes = (0,) if len(shape) == 2 else tuple(range(1, len(shape)))
        fan_in = int(np.prod([shape[axis] for axis in axes]))
        if fan_in > 1:
            value -= value.mean(axis=axes if len(axes) > 1 else axes[0], keepdims=True)
        value *= np.sqrt(2.0 / fan_in)
        return value.astype(np.float32)
    normal = {"embedding": 0.5, "bias": 0.05, "bn_offset": 0.05, "bn_mean": 0.1}
    if kind in normal:
        return (rng.standard_normal(shape) * normal[kind]).astype(np.float32)
    low, high = {"bn_scale_res": (0.1, 0.3)}.get(kind, (0.5, 1.5))
    if kind not in ("scale", "bn_scale", "bn_var", "bn_scale_res"):
        raise ValueError(f"unknown kind of parameter {kind!r}")
    return rng.uniform(low, high, shape).astype(np.float32)


def make_input(case: str, spec: dict, salt: str = "") -> np.ndarray:
    """The array that a case feeds as ``spec["name"]``, of the kind that the manifest states."""
    shape, kind, options = tuple(spec["shape"]), spec["kind"], spec["kw"]
    rng = stream(f"{case}/{spec['name']}{salt}")
    if kind == "normal":
        value = rng.standard_normal(shape) * options.get("scale", 1.0)
    elif kind == "image":
        value = _image(rng, shape)
    elif kind == "uniform":
        value = rng.uniform(options.get("lo", 0.0), options.get("hi", 1.0), shape)
    elif kind == "int":
        value = _integers(rng, shape, options)
    elif kind == "multihot":
        value = (rng.uniform(0.0, 1.0, shape) < options["p"]).astype(np.float64)
    elif kind == "sparse_int":
        hit = rng.uniform(0.0, 1.0, shape) < options["p"]
        value = np.where(hit, _integers(rng, shape, options), 0.0)
    elif kind == "tiers":
        value = _tiers(rng, shape, options["tiers"])
    elif kind == "const":
        value = np.full(shape, options["value"], np.float64)
    elif kind == "arange":
        value = np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape)
    else:
        raise ValueError(f"unknown kind of input {kind!r}")
    return value.astype(spec["dtype"])


def _integers(rng: np.random.RandomState, shape: tuple[int, ...], options: dict) -> np.ndarray:
    low, high = options["lo"], options["hi"]
    return np.floor(low + rng.uniform(0.0, 1.0, shape) * (high - low))


def _image(rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """An offset an image, an 8 x 8 grid of constant blocks, and pixel noise."""
    *lead, height, width = shape
    value = rng.standard_normal((*lead, 1, 1)) * 0.7
    grid = rng.standard_normal((*lead, 8, 8)) * 0.7
    grid = np.repeat(np.repeat(grid, -(-width // 8), axis=-1), -(-height // 8), axis=-2)
    return value + grid[..., :height, :width] + rng.standard_normal(shape) * 0.4


def _tiers(rng: np.random.RandomState, shape: tuple[int, ...], tiers: list) -> np.ndarray:
    """Exact counts of values within each (low, high), at shuffled places; 0 elsewhere."""
    size = int(np.prod(shape))
    order = np.argsort(rng.uniform(0.0, 1.0, size), kind="mergesort")
    value, start = np.zeros(size), 0
    for low, high, count in tiers:
        margin = 0.05 * (high - low)
        value[order[start : start + count]] = rng.uniform(low + margin, high - margin, count)
        start += count
    return value.reshape(shape)
