"""A sentence encoder of the BERT kind (Devlin et al., https://arxiv.org/abs/1810.04805) with mean pooling
(Reimers and Gurevych, https://arxiv.org/abs/1908.10084), inference only, in numpy.

Enough for all-MiniLM-L6-v2 and its like: a folder with ``config.json``, ``model.safetensors`` and
``tokenizer.json``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from utils.errors import ConfigError, DataError

KINDS = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64, "I32": np.int32}
MOST_TOKENS = 256


class Encoder:
    """``encoder(text)`` is ``(D,)`` float32 of length 1.

    Raises ConfigError without the package tokenizers or the folder's files, DataError for damaged ones.
    """

    def __init__(self, folder: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ConfigError(
                f"--model needs the package tokenizers ({error}): pip install tokenizers"
            ) from error
        base = Path(folder)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (base / name).is_file():
                raise ConfigError(f"--model={folder}: {name} is not there")
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config.get("layer_norm_eps", 1e-12)
        self.weights = read_safetensors(base / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(min(MOST_TOKENS, config["max_position_embeddings"]))

    def __call__(self, text: str) -> np.ndarray:
        ids = self.tokenizer.encode(text).ids
        x = self["embeddings.word_embeddings.weight"][ids]  # (T, D)
        x = x + self["embeddings.position_embeddings.weight"][: len(ids)]
        x = self._normalise(x + self["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for i in range(self.layers):
            x = self._layer(x, f"encoder.layer.{i}")
        mean = x.mean(axis=0)
        return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)

    def __getitem__(self, name: str) -> np.ndarray:
        for prefix in ("", "bert."):
            if prefix + name in self.weights:
                return self.weights[prefix + name]
        raise DataError(f"model.safetensors: no {name}; not an encoder of the BERT kind")

    def _layer(self, x: np.ndarray, name: str) -> np.ndarray:
        query, key, value = (
            np.stack(np.split(self._linear(x, f"{name}.attention.self.{part}"), self.heads, axis=1))
            for part in ("query", "key", "value")
        )  # (heads, T, D / heads)
        weights = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])  # (heads, T, T)
        weights = np.exp(weights - weights.max(axis=-1, keepdims=True))
        heads = weights / weights.sum(axis=-1, keepdims=True) @ value
        joined = self._linear(np.concatenate(list(heads), axis=1), f"{name}.attention.output.dense")
        x = self._normalise(x + joined, f"{name}.attention.output.LayerNorm")
        hidden = _gelu(self._linear(x, f"{name}.intermediate.dense"))
        return self._normalise(x + self._linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def _normalise(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + self.epsilon)
        return scaled * self[f"{name}.weight"] + self[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name: a length, a JSON header with types, shapes and places, then the bytes.

    Raises DataError.
    """
    data = path.read_bytes()
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        arrays = {}
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                raw = data[8 + size + first : 8 + size + last]
                arrays[name] = np.frombuffer(raw, KINDS[entry["dtype"]]).reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a readable safetensors file ({type(error).__name__}: {error})"
        ) from error
    return arrays
