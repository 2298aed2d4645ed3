"""One script, several processes of this machine that train together: started, watched, ended together.

Several machines need Paddle's own launcher (``run_dist.sh``); the ranks find the same environment here.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from utils.errors import OutputError

GRACE_SECONDS = 10  # a rank whose peer is gone may wait for it for ever
STOPPED = (130, 143)  # by SIGINT or SIGTERM, which all get: no failure, whatever the others end with


def start(num_ranks: int, on_gpu: bool, command: list[str], log_dir: Path) -> int:
    """Run ``command`` (a script and its arguments) on ``num_ranks`` ranks; their exit status.

    Rank 0 writes to this terminal, rank N to ``log_dir/rank<N>.log``. As soon as one rank fails the
    others are ended, and stderr says which it was. SIGINT and SIGTERM reach every rank.

    Raises OutputError where ``log_dir`` cannot be made.
    """
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{log_dir}: cannot make the folder: {error.strerror}") from error
    environments = _environments(num_ranks, on_gpu)
    with ExitStack() as files:
        processes = []
        for rank, environment in enumerate(environments):
            log = None if rank == 0 else files.enter_context(open(_log(log_dir, rank), "wb"))
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    env={**os.environ, **environment},
                    stdout=log,
                    stderr=subprocess.STDOUT if log else None,
                )
            )
        previous = {
            number: signal.signal(number, _Forward(processes, number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            return _watch(processes, log_dir)
        finally:
            for process in processes:
                process.kill()
                process.wait()
            for number, handler in previous.items():
                signal.signal(number, handler)


class _Forward:
    """Passes SIGTERM on; a terminal's Ctrl-C has reached the ranks already."""

    def __init__(self, processes: list[subprocess.Popen], number: int) -> None:
        self.processes, self.number = processes, number

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            for process in self.processes:
                process.send_signal(number)


def _watch(processes: list[subprocess.Popen], log_dir: Path) -> int:
    while True:
        statuses = [process.poll() for process in processes]
        failed = [rank for rank, status in enumerate(statuses) if status]
        if failed:
            break
        if None not in statuses:
            return 0
        time.sleep(0.2)
    stopped = [statuses[rank] for rank in failed if statuses[rank] in STOPPED]
    cause = min(failed, key=lambda rank: (_is_consequence(statuses[rank]), rank))
    status = statuses[cause]
    deadline = time.monotonic() + GRACE_SECONDS
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.2)
    if stopped:
        return stopped[0]
    if status < 0:
        name = signal.Signals(-status).name
        print(f"error: rank {cause} was killed by {name}; the others are ended", file=sys.stderr)
        return 128 - status
    # A user's mistake is the same on all ranks: rank 0 has said it on this terminal.
    if cause > 0 and not (status == processes[0].returncode == 2):
        print(f"error: rank {cause} failed: {_last_line(_log(log_dir, cause))}", file=sys.stderr)
    return status


def _is_consequence(status: int) -> bool:
    """Whether a rank may have ended so because its peer was gone: by an exception, or aborted by gloo."""
    return status in (1, -signal.SIGABRT)


def _log(log_dir: Path, rank: int) -> Path:
    return log_dir / f"rank{rank}.log"


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'no output'} (see {file})"


def _environments(num_ranks: int, on_gpu: bool) -> list[dict[str, str]]:
    """What ``paddle.distributed`` reads in each rank."""
    endpoints = [f"127.0.0.1:{port}" for port in _free_ports(num_ranks)]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if not devices[0]:
        devices = [str(rank) for rank in range(num_ranks)]
    environments = []
    for rank in range(num_ranks):
        environment = {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": str(num_ranks),
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            "PADDLE_MASTER": endpoints[0],
            "PADDLE_RANK_IN_NODE": str(rank),
            "PADDLE_DISTRI_BACKEND": "nccl" if on_gpu else "gloo",
        }
        if on_gpu:  # each rank sees its own device only, which is then number 0
            environment["CUDA_VISIBLE_DEVICES"] = devices[rank]
            environment["FLAGS_selected_gpus"] = "0"
        environments.append(environment)
    return environments


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]
