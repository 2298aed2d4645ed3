"""Recipes: a 2019 YAML file, the 2019 flags and ``-o`` overrides become typed, checked objects.

A YAML has the sections MODEL, TRAIN, VALID, TEST, INFER (some models add their own). Networks, readers,
metrics and solvers each declare a ``Config``: one field a key, with the sections it is read from, in
order. Precedence: default < YAML < 2019 flags < ``-o SECTION.key=value``. A key that nobody declares
stops the run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from utils.errors import ConfigError, nearest

MODES = ("TRAIN", "VALID", "TEST", "INFER")
MODE = "<mode>"  # stands for the section of the running mode
Sections = dict[str, dict[str, Any]]

# Keys of the 2019 files that nothing reads any more: accepted, without effect, and why.
RETIRED = {
    "buf_size": "the loader prefetches a few batches a worker",
    "buffer_size": "the loader prefetches a few batches a worker",
    "pretrain_base": "--pretrain says what training starts from; 2019 did not read it either",
    "num_trainers": "the launcher says how many processes run",
    "trainer_id": "the launcher says which process this is",
    "feature_num": "feature_names says how many there are",
    "dataset": "the lists say what is read",
    "bone_network": "2019 did not read it either",
    "bone_nework": "2019 did not read it either",
    "UNIQUE": "2019 did not read it either",
    "gradient_clip_norm": "2019 never applied it",
    "prop_boundary_ratio": "in BSN's recipes 2019 did not read it",
    "num_sample": "in BSN's recipes 2019 did not read it",
    "score_thresh": "in BSN's recipes 2019 did not read it",
}


class Config(BaseModel):
    """Base of every part's configuration: frozen, strict types, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RunConfig(Config):
    """What the scripts themselves read."""

    name: str = Field("", json_schema_extra={"sections": ["MODEL"]})
    batch_size: int = Field(1, gt=0, json_schema_extra={"sections": [MODE]})  # over all processes
    num_reader_threads: int = Field(0, ge=0, json_schema_extra={"sections": [MODE]})
    num_threads: int = Field(0, ge=0, json_schema_extra={"sections": [MODE]})  # the same in other recipes
    epoch: int = Field(1, ge=0, json_schema_extra={"sections": ["TRAIN"]})
    use_gpu: bool | None = Field(None, json_schema_extra={"sections": [MODE, "TRAIN"]})
    num_gpus: int = Field(1, gt=0, json_schema_extra={"sections": [MODE, "TRAIN"]})
    fix_random_seed: bool = Field(False, json_schema_extra={"sections": [MODE, "TRAIN"]})
    # Training stops when more than this share of the samples (and more than ten) cannot be read.
    max_failed_fraction: float = Field(0.1, ge=0, le=1, json_schema_extra={"sections": ["TRAIN"]})
    clip_norm: float | None = Field(None, gt=0, json_schema_extra={"sections": ["TRAIN"]})  # of all gradients
    seed: int | None = Field(None, ge=0, json_schema_extra={"sections": ["TRAIN"]})

    @property
    def num_readers(self) -> int:
        """Reader processes that the recipe asks for."""
        return max(self.num_reader_threads, self.num_threads)


C = TypeVar("C", bound=Config)


def key(default: Any = ..., *sections: str, called: str = "", **checks: Any) -> Any:
    """A field read from ``sections``, the first that has it; by default the mode's, then MODEL.

    ``called`` is its name in the YAML where two sections have a key of the same name.
    """
    where = {"sections": list(sections or (MODE, "MODEL")), "called": called}
    return Field(default, json_schema_extra=where, **checks)


def load_yaml(path: str | Path) -> Sections:
    """Sections of a recipe. Strings that are Python literals become them, as in 2019 (``1e-4``, ``None``).

    Raises ConfigError for a file that is missing, is no YAML, or is not sections of keys.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text"
        raise ConfigError(f"{path}: cannot read the configuration: {reason}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Sections:
    """As ``load_yaml``, from text; ``name`` is used in messages."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: not a YAML file: {getattr(error, 'problem', error)}") from error
    if not isinstance(raw, dict) or not all(isinstance(part, dict) for part in raw.values()):
        raise ConfigError(f"{name}: expected sections of keys (MODEL:, TRAIN:, …), got {type(raw).__name__}")
    return _literals(raw)


def _literals(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _literals(value) for name, value in node.items()}
    return literal(node) if isinstance(node, str) else node


def literal(text: str) -> Any:
    """The Python literal that ``text`` spells, else ``text``: YAML 1.1 reads ``1e-4`` as a string."""
    if text != text.strip():
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def merge_flags(sections: Sections, section: str, flags: dict[str, Any]) -> None:
    """Write every given flag (not None) into one section, whether or not the file has the key."""
    target = sections.setdefault(section, {})
    target.update({name: value for name, value in flags.items() if value is not None})


def merge_overrides(sections: Sections, overrides: Iterable[str]) -> None:
    """Apply ``SECTION.key=value`` items; values are read as in the YAML. Raises ConfigError."""
    for item in overrides:
        path, equals, value = item.partition("=")
        section, dot, name = path.strip().partition(".")
        if not (equals and dot and section and name):
            raise ConfigError(f"-o {item}: expected SECTION.key=value, e.g. TRAIN.epoch=1")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"-o {item}: cannot read the value {value!r}") from error
        parsed = "" if parsed is None and value.strip() not in ("null", "~") else _literals(parsed)
        sections.setdefault(section, {})[name] = parsed


def resolve(config: type[C], sections: Sections, mode: str, file: str) -> C:
    """``config`` filled from ``sections`` for ``mode``; raises ConfigError: file, section, key, got."""
    values, origin = {}, {}
    for name, field in config.model_fields.items():
        written = _name_of(name, field)
        for section in _sections_of(field):
            section = mode if section == MODE else section
            if written in sections.get(section, {}):
                values[name], origin[name] = sections[section][written], section
                break
    try:
        return config(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        written = _name_of(name, config.model_fields[name]) if name else ""
        if first["type"] == "missing":
            section = _sections_of(config.model_fields[name])[0].replace(MODE, mode)
            raise ConfigError(f"{file}: {section}.{written}: this key is missing") from error
        where = f"{origin.get(name, mode)}.{written}" if name else mode
        expected = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(f"{file}: {where}: {expected}; got {first['input']!r}") from error


def _sections_of(field: Any) -> list[str]:
    return (field.json_schema_extra or {}).get("sections", [MODE, "MODEL"])


def _name_of(name: str, field: Any) -> str:
    return (field.json_schema_extra or {}).get("called") or name


def check_keys(sections: Sections, configs: Iterable[type[Config]], file: str) -> None:
    """Raise ConfigError for the first key that none of ``configs`` reads from where it stands."""
    known: dict[str, set[str]] = {section: set() for section in (*MODES, "MODEL")}
    for config in configs:
        for name, field in config.model_fields.items():
            for section in _sections_of(field):
                for real in MODES if section == MODE else (section,):
                    known.setdefault(real, set()).add(_name_of(name, field))
    for section, keys in sections.items():
        if section not in known:
            raise ConfigError(
                f"{file}: unknown section {section!r}.{nearest(section, known)} Known: {', '.join(known)}."
            )
        for name in keys:
            if name not in known[section] and name not in RETIRED:
                names = sorted(known[section])
                raise ConfigError(
                    f"{file}: {section}: unknown key {name!r}.{nearest(str(name), names)} "
                    f"Known: {', '.join(names)}."
                )


def to_yaml(sections: Sections) -> str:
    """The sections as a YAML text that ``load_yaml`` reads back to the same values."""
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
