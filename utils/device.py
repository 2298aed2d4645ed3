"""Which device this process runs on, how many processes run together, and what they tell each other."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import paddle
import paddle.distributed as dist

from utils.errors import ConfigError


def visible_gpus() -> int:
    """GPUs that this process may use (CUDA_VISIBLE_DEVICES is respected); 0 for a CPU build."""
    return paddle.device.cuda.device_count() if paddle.is_compiled_with_cuda() else 0


def set_device(use_gpu: bool | None, recipe: bool | None) -> str:
    """Choose ``gpu:N`` or ``cpu``: the flag, else a GPU if there is one and the recipe allows it.

    Raises ConfigError when a GPU is asked for and there is none.
    """
    gpus = visible_gpus()
    if use_gpu and not gpus:
        built = "sees no GPU" if paddle.is_compiled_with_cuda() else "is a CPU build"
        raise ConfigError(
            f"--use_gpu=True, but this PaddlePaddle {built}. "
            "Leave the flag out or see requirements-gpu.txt."
        )
    wanted = use_gpu if use_gpu is not None else recipe is not False
    device = f"gpu:{local_rank() % gpus}" if wanted and gpus else "cpu"
    paddle.device.set_device(device)
    return device


def default_processes(use_gpu: bool | None, recipe: bool | None) -> int:
    """One process a visible GPU; one on CPU."""
    wanted = use_gpu if use_gpu is not None else recipe is not False
    return max(1, visible_gpus()) if wanted else 1


def rank() -> int:
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def world_size() -> int:
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def local_rank() -> int:
    return int(os.environ.get("PADDLE_LOCAL_RANK", os.environ.get("PADDLE_RANK_IN_NODE", "0")))


def under_launcher() -> bool:
    return "PADDLE_TRAINER_ENDPOINTS" in os.environ


def connect() -> None:
    """Join the other ranks, if there are any."""
    if world_size() > 1 and not dist.is_initialized():
        dist.init_parallel_env()


def mean(value: float) -> float:
    """The mean of ``value`` over all ranks."""
    if world_size() == 1:
        return value
    tensor = paddle.to_tensor([value], dtype="float64")
    dist.all_reduce(tensor)
    return float(tensor) / world_size()


def gather(value: Any) -> list[Any]:
    """``value`` of every rank, in the order of ranks; each rank gets the list."""
    if world_size() == 1:
        return [value]
    values: list[Any] = []
    dist.all_gather_object(values, value)
    return values


def any_rank(flag: bool) -> bool:
    """True on every rank as soon as ``flag`` is true on one."""
    return mean(float(flag)) > 0


def share_from_rank_0(tensors: list[paddle.Tensor]) -> None:
    """Give every rank the values of rank 0 (the running statistics of batch norm are kept local)."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def start_ranks(num_processes: int, use_gpu: bool | None, script: str, argv: list[str], log_dir: str) -> int:
    """Run ``script`` on ``num_processes`` ranks of this machine; the launcher's exit status."""
    command = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", log_dir]
    if use_gpu is not False and visible_gpus():
        devices = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(num_processes)))
        command += ["--devices", devices]
    else:
        command += ["--nproc_per_node", str(num_processes), "--backend", "gloo"]
    process = subprocess.Popen([*command, script, *argv])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the ranks got it too; they save and stop, and we report their status
            continue
