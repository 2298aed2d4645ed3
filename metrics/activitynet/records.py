"""ActivityNet's annotations and result files, as its scores read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError


@dataclass(frozen=True)
class Action:
    """One action in time; ``score`` is that of a detection, ``label`` is empty for a proposal."""

    video: str
    label: str
    start: float
    end: float
    score: float = 1.0


def read_annotations(file: str, subset: str) -> list[Action]:
    """Actions of one subset of an ActivityNet annotation, in seconds; raises DataError.

    ``{"database": {video: {"subset", "annotations": [{"label", "segment"}]}}}``, or its inner part alone.
    """
    content = _read(file)
    database = content.get("database", content)
    found = []
    try:
        for video, about in database.items():
            if about["subset"] == subset:
                found += [
                    Action(video, str(one["label"]), *map(float, one["segment"]))
                    for one in about["annotations"]
                ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file}: not an ActivityNet annotation ({error!r})") from error
    if not found:
        known = sorted({about["subset"] for about in database.values()})
        raise DataError(f"{file}: no annotated action in the subset {subset!r}; subsets: {', '.join(known)}")
    return found


def read_results(file: str, known: set[str], labelled: bool) -> list[Action]:
    """``{"results": {video: [{"score", "segment"}]}}``, in seconds, with a ``"label"`` each where they are
    ``labelled``; raises DataError.

    A video may be called with or without the ``v_`` of its file, whichever ``known`` does not have.
    """
    results = _read(file).get("results")
    found = []
    try:
        for video, rows in results.items():
            name = next((n for n in (video, video.removeprefix("v_"), f"v_{video}") if n in known), video)
            for one in rows:
                label = str(one["label"]) if labelled else ""
                found.append(Action(name, label, *map(float, one["segment"]), float(one["score"])))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        kind = "detection" if labelled else "proposals"
        raise DataError(f"{file}: not a result of {kind} ({error!r})") from error
    return found


def _read(file: str) -> dict:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot read it: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content
