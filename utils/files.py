"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import OutputError


def write_atomic(path: str | Path, data: bytes, same_as: str | Path | None = None) -> None:
    """Write ``data`` to ``path``: a temporary file beside it, fsync, rename.

    ``same_as``, if given and not ``path``, already holds ``data``: where the file system can, it is
    linked and not written again. Files are never changed in place, so a link is as good as a copy.

    Raises OutputError, naming the path and leaving the earlier file whole, when the disk is full or
    the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if same_as is None or Path(same_as) == path or not _linked(same_as, temporary):
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror}; earlier files are whole") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _linked(source: str | Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        return False
    return True


def write_json(path: str | Path, value: Any) -> None:
    """``value`` as UTF-8 JSON, atomically."""
    text = json.dumps(json_safe(value), ensure_ascii=False, indent=2, allow_nan=False)
    write_atomic(path, (text + "\n").encode("utf-8"))


def json_safe(value: Any) -> Any:
    """``value`` with null for NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {str(name): json_safe(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
