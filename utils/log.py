"""What a run says: lines on stdout for people, ``log.jsonl`` for programs, a bar on a terminal."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from tqdm import tqdm

from utils.errors import ConfigError, OutputError
from utils.files import json_safe


def setup(rank: int) -> None:
    """Log to stdout: everything on rank 0, warnings on the others. Filters Paddle's own noise."""
    prefix = f"[rank {rank}] " if rank else ""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        logging.Formatter(f"{prefix}[%(levelname)s: %(filename)s: %(lineno)4d]: %(message)s")
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING if rank else logging.INFO)
    warnings.filterwarnings("ignore", message=".*'place' interface for pir graph mode.*")
    warnings.filterwarnings("ignore", message=".*Attr.force_cpu. of Op.*")  # Paddle 2.6


def show_config(log: logging.Logger, title: str, sections: dict[str, dict[str, Any]]) -> None:
    """The resolved recipe, in the layout of 2019."""
    log.info(f"---------------- {title:>5} Arguments ----------------")
    for section, keys in sections.items():
        log.info(f"{section}:")
        for name, value in keys.items():
            log.info(f"    {name}:{value}")
    log.info("-------------------------------------------------")


def values_text(values: dict[str, float]) -> str:
    return ", ".join(f"{name}: {value:.6g}" for name, value in values.items())


class JsonLog:
    """Appends one JSON object a line to ``path``, in one write; numbers go to ``scalars``, too, as
    ``<kind>/<name>`` at ``step``. Raises OutputError.
    """

    def __init__(self, path: str | Path | None, scalars: Any = None) -> None:
        self.path, self.scalars = path, scalars

    def write(self, **record: Any) -> None:
        if self.path is None:
            return
        record = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **record}
        line = json.dumps(json_safe(record), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            os.makedirs(os.path.dirname(str(self.path)) or ".", exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot write: {error.strerror}") from error
        if self.scalars is not None:
            for name, value in record.items():
                if isinstance(value, (int, float)) and name not in ("step", "iter"):
                    self.scalars.add_scalar(f"{record['kind']}/{name}", value, record["step"])


WRITERS = {"tensorboardX": "SummaryWriter", "visualdl": "LogWriter"}  # package: class


def scalar_writer(package: str | None, folder: Path) -> Any:
    """A writer of curves into ``folder``, or None without ``package``. Raises ConfigError if it is absent."""
    if package is None:
        return None
    try:
        return getattr(importlib.import_module(package), WRITERS[package])(str(folder))
    except ModuleNotFoundError as error:
        raise ConfigError(f"--log_writer={package}: not installed; pip install {package}") from error


def bar(total: int, title: str, rank: int = 0) -> tqdm:
    """A progress bar on stderr; silent when stderr is no terminal, and on other ranks."""
    return tqdm(total=total, desc=title, leave=False, disable=rank != 0 or not sys.stderr.isatty())
