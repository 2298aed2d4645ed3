"""Which device this process runs on, how many processes run together, and what they tell each other."""

from __future__ import annotations

import logging
import os
from typing import Any

import paddle
import paddle.distributed as dist

from utils import cpu
from utils.errors import ConfigError
from utils.meeting import LostPeer, Meeting

log = logging.getLogger(__name__)


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
            f"--use_gpu=True, but this PaddlePaddle {built}. Leave the flag out or see requirements-gpu.txt."
        )
    wanted = wants_gpu(use_gpu, recipe)
    device = f"gpu:{local_rank() % gpus}" if wanted and gpus else "cpu"
    paddle.device.set_device(device)
    if device == "cpu":
        cpu.keep_memory()
        paddle.base.core.set_num_threads(num_threads())
    return device


def num_threads() -> int:
    """Threads that a process computes with on a CPU: OMP_NUM_THREADS, else its share of the cores.

    The cores that this process may use are divided by the number of processes on this machine.
    """
    given = os.environ.get("ZOO_NUM_THREADS", "")  # OMP_NUM_THREADS before Paddle changed it
    if given.isdigit() and int(given) > 0:
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_size())


def default_processes(use_gpu: bool | None, recipe: bool | None) -> int:
    """One process a visible GPU; one on CPU."""
    return max(1, visible_gpus()) if wants_gpu(use_gpu, recipe) else 1


def wants_gpu(use_gpu: bool | None, recipe: bool | None) -> bool:
    """The flag decides, else the recipe; what neither says is wanted, if there is one."""
    return use_gpu if use_gpu is not None else recipe is not False


def rank() -> int:
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def world_size() -> int:
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def local_rank() -> int:
    return int(os.environ.get("PADDLE_LOCAL_RANK", os.environ.get("PADDLE_RANK_IN_NODE", "0")))


def local_size() -> int:
    """Processes of this run on this machine. Only Paddle's launcher starts some on others, and says so."""
    return int(os.environ.get("PADDLE_LOCAL_SIZE", world_size()))


def under_launcher() -> bool:
    return "PADDLE_TRAINER_ENDPOINTS" in os.environ


def connect() -> None:
    """Join the other ranks, if there are any."""
    global _meeting
    if world_size() == 1 or dist.is_initialized():
        return
    dist.init_parallel_env()
    # Where another rank is killed, gloo may abort this one: not with pages of C++ before the launcher's line.
    paddle.disable_signal_handler()
    if paddle.device.get_device() == "cpu":
        host = os.environ["PADDLE_TRAINER_ENDPOINTS"].split(",")[0].rpartition(":")[0]
        store = paddle.base.core.create_or_get_global_tcp_store()
        _meeting = Meeting(rank(), world_size(), host, store)


def lost_peer(error: Exception) -> bool:
    """Whether ranks could not talk because another one is gone: Paddle's message then names a source file."""
    if isinstance(error, LostPeer):
        return True
    return world_size() > 1 and any(name in str(error) for name in ("gloo", "tcp_utils", "tcp_store"))


_meeting: Meeting | None = None  # of the ranks, on CPUs; NCCL is patient itself


def _meet() -> None:
    """Wait until every rank has come here.

    Ranks come late for good reasons: one writes a checkpoint, or has the longer videos to evaluate.
    """
    if _meeting is not None:
        _meeting.wait()


def data_parallel(network: paddle.nn.Layer) -> paddle.nn.Layer:
    """``network``, its gradients averaged over all ranks, if there are others."""
    if world_size() > 1:
        _meet()
    return paddle.DataParallel(network) if world_size() > 1 else network


def synchronise_batch_norm(network: paddle.nn.Layer, to_static: bool) -> None:
    """Let batch norm use the statistics of the total batch of all ranks. Raises ConfigError in a Program."""
    if to_static and world_size() > 1:
        raise ConfigError("--sync_bn and --to_static=True: leave one of them out on many processes")
    layers = [layer for layer in network.sublayers() if hasattr(layer, "across_ranks")]
    for layer in layers:
        layer.across_ranks = world_size() > 1
    log.info(f"batch norm over the batch of all processes in {len(layers)} layers")


def mean(value: float) -> float:
    """The mean of ``value`` over all ranks."""
    if world_size() == 1:
        return value
    _meet()
    tensor = paddle.to_tensor([value], dtype="float64")
    dist.all_reduce(tensor)
    return tensor.item() / world_size()


def total(value: int) -> int:
    """The sum of ``value`` over all ranks."""
    if world_size() == 1:
        return value
    _meet()
    tensor = paddle.to_tensor([value], dtype="int64")
    dist.all_reduce(tensor)
    return int(tensor.item())


def highest(value: int) -> int:
    """The largest ``value`` of all ranks."""
    if world_size() == 1:
        return value
    _meet()
    tensor = paddle.to_tensor([value], dtype="int64")
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def wait_for_all() -> None:
    """Return when every rank has come here: none may leave while another still writes."""
    highest(0)


def gather(value: Any) -> list[Any]:
    """``value`` of every rank, in the order of ranks; each rank gets the list."""
    if world_size() == 1:
        return [value]
    _meet()
    values: list[Any] = []
    dist.all_gather_object(values, value)
    return values


def share_from_rank_0(tensors: list[paddle.Tensor]) -> None:
    """Give every rank the values of rank 0 (the running statistics of batch norm are kept local)."""
    if world_size() > 1:
        _meet()
        for tensor in tensors:
            dist.broadcast(tensor, 0)
