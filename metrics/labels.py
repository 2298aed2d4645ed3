"""Names of classes, by class id, and a ranking of them in words."""

from __future__ import annotations

import csv
import io
import json
import logging
from pathlib import Path
from typing import Any

from utils.errors import ConfigError

log = logging.getLogger(__name__)


def class_names(path: str | None, num_classes: int) -> list[str]:
    """The names in ``path``; without one a class is called by its id. Raises ConfigError."""
    if not path:
        return [str(k) for k in range(num_classes)]
    names = read_names(path, num_classes)
    if len(names) > num_classes:
        log.warning("%s names %d classes, but MODEL.num_classes is %d", path, len(names), num_classes)
    return names


def read_names(path: str, num_classes: int) -> list[str]:
    """Class names from a JSON list (or dict name -> id), a CSV with the columns Index and Name
    (YouTube-8M's ``vocabulary.csv``), or a text with one name a line.

    Raises ConfigError: no such file, unreadable, or fewer names than classes.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if path.endswith(".json"):
            names = json.loads(text)
        elif path.endswith(".csv"):
            rows = sorted(csv.DictReader(io.StringIO(text)), key=lambda row: int(row["Index"]))
            names = [row["Name"] or row["Index"] for row in rows]  # two classes may have one name
        else:
            names = text.splitlines()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot read the class names: {error}") from error
    if isinstance(names, dict):
        names = [name for name, _ in sorted(names.items(), key=lambda item: item[1])]
    if not isinstance(names, list) or len(names) < num_classes:
        count = len(names) if isinstance(names, list) else 0
        raise ConfigError(f"{path}: {count} class names, but MODEL.num_classes is {num_classes}")
    return [str(name) for name in names]


def ranking(record: dict[str, Any]) -> str:
    """The lines of 2019 for a record ``{"video", "topk": [{"class_name", "probability"}]}``."""
    lines = [f"video_id {record['video']} , topk({len(record['topk'])}) preds:"]
    lines += [
        f"\t    class: {entry['class_name']},  probability:  {entry['probability']}"
        for entry in record["topk"]
    ]
    return "\n".join(lines)
