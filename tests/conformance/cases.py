"""What there is to compare: the cases of a conformance folder, by area and by model of the zoo."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from models import VIDEO_TAG, ZOO
from utils.config import Sections, load_yaml
from utils.registry import ModelSpec

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Case:
    """One recorded case: where it lies, its entry in the manifest, and the row it tests."""

    area: str  # networks, checkpoints, readers, metrics
    label: str  # of the row in --models and in the counts
    spec: ModelSpec
    name: str
    folder: Path

    @property
    def id(self) -> str:
        return f"{self.label}/{self.name}"


def rows(names: str) -> dict[str, ModelSpec]:
    """The rows that ``--models`` asks for, by label; all of them for an empty text.

    The models of the application are called VIDEOTAG_TSN and VIDEOTAG_ATTENTIONLSTM; VideoTag means both.
    """
    known = {spec.name: spec for spec in ZOO}
    known |= {f"VIDEOTAG_{spec.name.upper()}": spec for spec in VIDEO_TAG}
    wanted = {name.strip().lower() for name in names.split(",") if name.strip()}
    unknown = wanted - {label.lower() for label in known}
    if unknown:
        raise ValueError(f"--models: {', '.join(sorted(unknown))} not in the zoo")
    if "videotag" in wanted:
        wanted |= {label.lower() for label in known if label.startswith("VIDEOTAG_")}
    return {label: spec for label, spec in known.items() if not wanted or label.lower() in wanted}


def find(area: str, folder: Path, names: str) -> list[Case]:
    """Every case of ``area`` for the rows of ``names`` that ``folder`` holds."""
    found = []
    for label, spec in rows(names).items():
        if area == "networks":
            base = folder / "networks" / label.upper()
            listed = read_json(base / "manifest.json")["cases"] if base.is_dir() else {}
        elif area == "checkpoints":
            checkpoints = folder / "networks" / "checkpoints"
            base = checkpoints / label.upper()
            listed = _checkpoint_cases(base)
            # What --pretrain makes of one backbone is recorded beside it, for every model.
            found += [
                Case(area, label, spec, file.stem, file.parent)
                for file in sorted(checkpoints.glob(f"*/pretrain_{label.upper()}.json"))
            ]
        else:
            base = folder / "io" / area
            everything = read_json(base / "manifest.json")["cases"] if base.is_dir() else []
            listed = [name for name in everything if _is_of(base, name, area, label)]
        found += [Case(area, label, spec, name, base) for name in listed]
    return found


def _is_of(base: Path, name: str, area: str, label: str) -> bool:
    file = base / name / "expected.json" if area == "metrics" else base / f"{name}.json"
    application = "VIDEOTAG_" if name.startswith("vt_") else ""  # its own copies of readers and metrics
    return f"{application}{read_json(file)['model']}".lower() == label.lower()


def _checkpoint_cases(base: Path) -> list[str]:
    if not base.is_dir():
        return []
    names = [file.stem for file in base.glob("*.pdparams")]
    names += [file.name for file in base.iterdir() if file.is_dir()]
    return sorted(names)


@cache
def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def sections_of(case: Case, described: dict) -> tuple[Sections, str]:
    """The recipe of a case: our YAML of the same name, with the case's overrides, and its path."""
    name = described.get("config_file", described.get("base_config") or described["config"])
    home = ROOT / "application" / "video_tag" if case.label.startswith("VIDEOTAG_") else ROOT
    file = home / name.removeprefix("video_tag/")
    sections = load_yaml(file)
    for section, keys in described.get("overrides", {}).items():
        sections.setdefault(section, {}).update(keys)
    return sections, str(file)


def stored(arrays: Any, key: str) -> dict[str, np.ndarray]:
    """A recorded array, whole or as every n-th value and statistics, in comparable form."""
    if key in arrays:
        return {"all": arrays[key]}
    return {"sample": arrays[f"{key}__sample"], "stats": arrays[f"{key}__stats"]}


def assert_close(got: Any, expected: Any, limit: float, what: str) -> None:
    """Largest difference within ``limit`` of the scale of ``expected``."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, recorded {expected.shape}"
    if not expected.size:
        return
    scale = max(float(np.abs(expected).max()), 1e-30)
    error = float(np.abs(got - expected).max()) / scale
    assert error <= limit, f"{what}: off by {error:.2e} of its scale, allowed {limit:.0e}"


def assert_stored(got: np.ndarray, expected: dict[str, np.ndarray], limit: float, what: str) -> None:
    """As ``assert_close``, for an array that was stored whole or as a sample with statistics."""
    if "all" in expected:
        assert_close(got, expected["all"].reshape(got.shape), limit, what)
        return
    flat = got.reshape(-1).astype(np.float64)
    stride = -(-flat.size // expected["sample"].size)
    assert_close(flat[::stride], expected["sample"].reshape(-1), limit, what)
    statistics = [flat.mean(), flat.std(), np.sqrt((flat**2).sum()), flat.min(), flat.max()]
    assert_close(statistics, expected["stats"], limit, f"{what} (statistics)")
