"""Where published weights and pretrained backbones lie; what is not there yet is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from utils import download
from utils.config import Config
from utils.errors import WeightsError
from utils.registry import ModelSpec

PROJECT = Path(__file__).resolve().parents[1]
FOLDER_VARIABLE = "PADDLE_VIDEO_WEIGHTS"


def weights_folder() -> Path:
    """``~/.paddle/weights``, as in 2019, or what the environment variable PADDLE_VIDEO_WEIGHTS names."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.paddle/weights").expanduser()


def published(spec: ModelSpec, config: Config) -> str:
    """The published weights of ``spec``, for eval and predict without ``--weights``.

    Raises WeightsError when they are neither in the folder nor to be had, or when ``config`` has another
    number of classes: then they are somebody else's classes.
    """
    if not (spec.weights or spec.weights_of):
        raise WeightsError(f"--weights is missing, and there are no published weights of {spec.name}")
    usual = type(config).model_fields.get("num_classes")
    if usual is not None and config.num_classes != usual.default:
        raise WeightsError(
            f"--weights is missing: MODEL.num_classes is {config.num_classes}, "
            f"but the published weights of {spec.name} know {usual.default} classes"
        )
    files = []
    for row in spec.weights_of or (spec,):
        folder = PROJECT / row.weights_folder if row.weights_folder else weights_folder()
        files.append(_fetched(folder / row.weights, row.weights_urls, row.weights_sha256, "--weights"))
    return ",".join(files)


def default_pretrain(spec: ModelSpec, config: Config) -> str | None:
    """The backbone that training starts from without ``--pretrain``; None where there is none.

    Raises WeightsError when there is one, but it is neither in the folder nor to be had.
    """
    depth = getattr(config, "num_layers", 50)
    if not spec.pretrain or depth != 50:
        return None
    hint = "; --pretrain=none starts from scratch"
    target = weights_folder() / spec.pretrain
    return _fetched(target, spec.pretrain_urls, spec.pretrain_sha256, "--pretrain", hint)


def _fetched(target: Path, urls: tuple[str, ...], sha256: str, flag: str, hint: str = "") -> str:
    try:
        return str(download.fetch(target, urls, sha256))
    except WeightsError as error:
        raise WeightsError(f"{flag} is missing and {error}{hint}") from error
