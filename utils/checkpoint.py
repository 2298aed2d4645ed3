"""Checkpoints with the names and the format of 2019, written whole or not at all.

``<prefix>.pdparams`` and ``<prefix>.pdopt`` are pickled dicts name -> ndarray, as Paddle itself reads;
``<prefix>.json`` says what they are and holds their sha256, and is written last: parts that do not
match it are never resumed from. Networks are addressed by 2019's parameter names.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle

from utils import fluid_file, safe_pickle
from utils import optimizer as optimizers
from utils.errors import DataError, WeightsError
from utils.files import write_atomic, write_json

log = logging.getLogger(__name__)
State = dict[str, np.ndarray]
SUFFIXES = (".pdparams", ".pdopt", ".json")


# ---- writing ---------------------------------------------------------------------------------------


def save(prefixes: list[Path], parameters: State, optimizer: dict | None, about: dict) -> None:
    """Write one checkpoint under each of ``prefixes`` (the same bytes), its ``.json`` last.

    Args:
        parameters: 2019 name -> array.
        optimizer: as from ``optimizer_state``; None leaves the ``.pdopt`` out.
        about: epoch, iteration, metric …; the sha256 of the parts are added.
    """
    parts = {".pdparams": pickle.dumps(parameters, protocol=4)}
    if optimizer is not None:
        parts[".pdopt"] = pickle.dumps(optimizer, protocol=4)
    about = {**about, "sha256": {suffix: _sha256(data) for suffix, data in parts.items()}}
    for prefix in prefixes:
        for suffix, data in parts.items():
            write_atomic(f"{prefix}{suffix}", data, same_as=f"{prefixes[0]}{suffix}")
        write_json(f"{prefix}.json", about)


def annotate(prefix: Path, about: dict) -> None:
    """Replace the description of a checkpoint whose parts stay as they are."""
    old = json.loads(Path(f"{prefix}.json").read_text(encoding="utf-8"))
    write_json(f"{prefix}.json", {**about, "sha256": old["sha256"]})


def remove_unfinished(folder: Path, name: str) -> None:
    """Delete what a run that was killed while it wrote a checkpoint of ``name`` left behind."""
    pattern = re.compile(rf"\.{re.escape(name)}(_epoch\d+|_best)?\.(pdparams|pdopt|json)\.\d+\.tmp")
    for file in folder.glob(".*.tmp"):
        if pattern.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def network_state(network: paddle.nn.Layer) -> State:
    """Every parameter and statistic, 2019 name -> array, in creation order."""
    return {parameter.name: parameter.numpy() for parameter in network.parameters()}


def optimizer_state(optimizer: paddle.optimizer.Optimizer) -> dict:
    """Accumulators name -> array (``conv1_weights_velocity_0``) and ``LR_Scheduler``: {last_epoch, …}."""
    state = optimizer.state_dict()
    if not optimizer._accumulators:  # restored, and no step yet: Paddle 2.6 leaves them out
        state = {**optimizer._accumulators_holder, **state}
    return {k: v.numpy() if isinstance(v, paddle.Tensor) else v for k, v in state.items()}


# ---- reading ---------------------------------------------------------------------------------------


@dataclass
class Report:
    """What became of each parameter; ``str(report)`` is one line for the log."""

    source: str
    loaded: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # "name: shape in the file vs in the network"
    missing: list[str] = field(default_factory=list)  # in the network, not in the file
    unused: list[str] = field(default_factory=list)  # in the file, not in the network

    def __str__(self) -> str:
        counts = ", ".join(
            f"{len(getattr(self, title))} {title}" for title in ("loaded", "skipped", "missing", "unused")
        )
        return f"{self.source}: {counts}{self.details()}"

    def details(self) -> str:
        """The names behind the counts, a few of each."""
        text = ""
        for title in ("skipped", "missing", "unused"):
            names = getattr(self, title)
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            if names:
                text += f"; {title}: {', '.join(names[:8])}{more}"
        return text


def read_weights(path: str) -> State:
    """Arrays by name from a ``.pdparams`` file, a prefix of one, or a 2019 folder of variables.

    Several with commas between them are read together: the stages of a model may come in a file each.
    Raises WeightsError if there is nothing there, or if what is there holds no arrays.
    """
    file = Path(path)
    if "," in path and not file.exists() and not Path(f"{path}.pdparams").exists():
        return {name: value for part in path.split(",") for name, value in read_weights(part).items()}
    if file.is_dir():
        return fluid_file.read_folder(file)
    if not file.is_file():
        file = Path(f"{path}.pdparams")
    if not file.is_file():
        raise WeightsError(f"{path}: no such weights (neither this file or folder, nor {file.name})")
    state = _read_dict(file)
    # paddle.save of a dygraph network stores structured names beside the table of parameter names.
    names = state.pop("StructuredToParameterName@@", {})
    arrays = {names.get(name, name): value for name, value in state.items()}
    bad = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if bad or not arrays:
        raise WeightsError(
            f"{file}: expected a dict name -> array" + (f"; {bad[0]!r} is none" if bad else "")
        )
    return arrays


def _read_dict(file: Path) -> dict:
    state = safe_pickle.load(file, encoding="latin1")
    if not isinstance(state, dict):
        raise WeightsError(f"{file}: expected a dict name -> array, got {type(state).__name__}")
    return state


def load_into(network: paddle.nn.Layer, state: Mapping[str, np.ndarray], source: str) -> Report:
    """Copy what fits by name and shape into ``network``; WeightsError if nothing does."""
    report = Report(source)
    parameters = {parameter.name: parameter for parameter in network.parameters()}
    report.unused = [name for name in state if name not in parameters]
    for name, parameter in parameters.items():
        if name not in state:
            report.missing.append(name)
        elif list(state[name].shape) != list(parameter.shape):
            got, expected = list(state[name].shape), list(parameter.shape)
            report.skipped.append(f"{name}: {got} in the file, {expected} in the network")
        else:
            parameter.set_value(np.ascontiguousarray(state[name]).astype(_dtype(parameter), copy=False))
            report.loaded.append(name)
    if not report.loaded:
        raise WeightsError(f"none of these parameters fits the network: {report}")
    return report


def _dtype(parameter: paddle.Tensor) -> str:
    return str(parameter.dtype).split(".")[-1]


def load_weights(network: paddle.nn.Layer, path: str) -> Report:
    """All of ``network`` from ``path``; WeightsError, with the table, unless everything fits."""
    state = read_weights(path)
    adapt = getattr(network, "adapt_weights", None)  # 2019 layouts that differ between train and test
    report = load_into(network, adapt(state) if adapt else state, path)
    if report.missing or report.skipped:
        raise WeightsError(f"these weights do not fit the network of this recipe: {report}")
    return report


def load_pretrained(network: paddle.nn.Layer, path: str) -> Report:
    """Start ``network`` from other weights: what fits is loaded, the rest keeps its initial value."""
    return load_into(network, network.adapt_pretrained(read_weights(path)), path)


# ---- resuming --------------------------------------------------------------------------------------


def find_resume(asked: str, save_dir: str, name: str) -> str | None:
    """The prefix that ``--resume`` means: a prefix, a file of it, or ``auto`` = the newest whole one.

    ``auto`` gives None where ``save_dir`` has no checkpoint of ``name``. Raises WeightsError.
    """
    if asked == "auto":
        return _newest(Path(save_dir), name)
    prefix = asked
    for suffix in SUFFIXES:
        prefix = prefix.removesuffix(suffix)
    if not Path(f"{prefix}.pdparams").is_file():
        raise WeightsError(f"{asked}: nothing to resume from: {prefix}.pdparams does not exist")
    return prefix


def _newest(folder: Path, name: str) -> str | None:
    found = []
    pattern = re.compile(rf"{re.escape(name)}(_epoch\d+)?\.json")
    for file in folder.glob(f"{glob_escape(name)}*.json"):
        if not pattern.fullmatch(file.name):
            continue
        prefix = str(file).removesuffix(".json")
        try:
            about = read_about(prefix)
        except WeightsError as error:
            log.warning("resume: skipped %s", error)
            continue
        found.append((about["step"], about["epoch"], prefix))
    return max(found)[2] if found else None


def glob_escape(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def read_about(prefix: str) -> dict | None:
    """The checkpoint's ``.json``, its parts checked against it; None where there is none (2019's).

    Raises WeightsError for a part that is missing or does not match: a torn checkpoint.
    """
    file = Path(f"{prefix}.json")
    if not file.is_file():
        return None
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        expected = about["sha256"]
        [about[key] for key in ("epoch", "iteration", "epoch_finished", "step", "seed", "best")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{file}: not a checkpoint's description ({error})") from error
    for suffix, digest in expected.items():
        part = Path(f"{prefix}{suffix}")
        if not part.is_file() or _sha256(part.read_bytes()) != digest:
            raise WeightsError(
                f"{part}: missing, or not the file that {file.name} describes: a torn checkpoint"
            )
    return about


def load_optimizer(optimizer: paddle.optimizer.Optimizer, prefix: str, counter_begin: int) -> bool:
    """Restore accumulators and the step of the rate from ``<prefix>.pdopt``; False where it is absent.

    Reads 2019's files too: there the counter after n steps is n - 1 + ``counter_begin``.
    """
    file = Path(f"{prefix}.pdopt")
    if not file.is_file():
        return False
    state = _read_dict(file)
    counter = None
    if "LR_Scheduler" not in state:
        counter = state.pop("@LR_DECAY_COUNTER@", None)
        state = {k: v for k, v in state.items() if not re.fullmatch(r"learning_rate(_\d+)?", k)}
        state |= {k: v for k, v in optimizer.state_dict().items() if k == "LR_Scheduler"}
    bad = [k for k, v in state.items() if not isinstance(v, (np.ndarray, dict))]
    if bad:
        raise DataError(f"{file}: expected arrays by name; {bad[0]!r} is none")
    optimizer.set_state_dict(
        {k: paddle.to_tensor(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}
    )
    if counter is not None:
        optimizers.set_step(optimizer, int(np.asarray(counter).reshape(-1)[0]) + 1 - counter_begin)
    return True
