"""TSN's ResNet-50 in PyTorch, run by ``benchmark.torch_peer`` in an interpreter that has PyTorch.

    python benchmark/torch_resnet.py FOLDER inference|train RUNS

reads ``FOLDER/weights.npz`` (names of 2019) and ``FOLDER/image.npy`` ``(N, S, 3, H, W)`` and prints one JSON
object: milliseconds of each run, the peak memory, and of inference the logits. It
imports nothing of the zoo: that interpreter need not have it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = (3, 4, 6, 3)
Weights = dict[str, Tensor]


def conv_bn(x: Tensor, weights: Weights, name: str, stride: int, training: bool) -> Tensor:
    bn = "bn_conv1" if name == "conv1" else f"bn{name[3:]}"
    kernel = weights[f"{name}_weights"]
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    mean, variance, scale, offset = (
        weights[f"{bn}_{what}"] for what in ("mean", "variance", "scale", "offset")
    )
    return F.batch_norm(x, mean, variance, scale, offset, training)


def logits(image: Tensor, weights: Weights, training: bool) -> Tensor:
    """Frames ``(N, S, 3, H, W)`` to ``(N, K)``."""
    batch, segments = image.shape[:2]
    x = image.flatten(0, 1).contiguous(memory_format=torch.channels_last)  # (N*S, 3, H, W)
    x = F.relu(conv_bn(x, weights, "conv1", 2, training))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, num_blocks in enumerate(BLOCKS):
        for block in range(num_blocks):
            name, stride = f"res{stage + 2}{'abcdef'[block]}", 2 if block == 0 and stage else 1
            shortcut = conv_bn(x, weights, f"{name}_branch1", stride, training) if block == 0 else x
            x = F.relu(conv_bn(x, weights, f"{name}_branch2a", 1, training))
            x = F.relu(conv_bn(x, weights, f"{name}_branch2b", stride, training))
            x = F.relu(conv_bn(x, weights, f"{name}_branch2c", 1, training) + shortcut)
    features = x.mean((2, 3)).reshape(batch, segments, -1).mean(1)  # (N*S, D, h, w) -> (N, D)
    return features @ weights["fc_0.w_0"] + weights["fc_0.b_0"]


def main(folder: Path, path: str, runs: int) -> None:
    with np.load(folder / "weights.npz") as arrays:
        weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    # PyTorch's fastest order in memory for convolutions on a CPU.
    for name, value in weights.items():
        if value.ndim == 4:
            weights[name] = value.contiguous(memory_format=torch.channels_last)
    image = torch.from_numpy(np.load(folder / "image.npy"))
    run = inference(image, weights) if path == "inference" else train_step(image, weights)
    milliseconds = []
    result = run()
    for _ in range(runs):
        started = time.perf_counter()
        run()
        milliseconds.append(1000 * (time.perf_counter() - started))
    print(
        json.dumps(
            {
                "milliseconds": milliseconds,
                "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "version": torch.__version__,
                "result": result,
            }
        )
    )


def inference(image: Tensor, weights: Weights):
    def run() -> list[list[float]]:
        with torch.inference_mode():
            return logits(image, weights, False).tolist()

    return run


def train_step(image: Tensor, weights: Weights):
    label = torch.zeros(len(image), dtype=torch.int64)
    trained = [
        value.requires_grad_() for name, value in weights.items() if not name.endswith(("_mean", "_variance"))
    ]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=1e-4)

    def run() -> float:
        loss = F.cross_entropy(logits(image, weights, True), label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return run


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
