"""Where published weights and pretrained backbones are looked for, and what to do when they are not there."""

from __future__ import annotations

import os
from pathlib import Path

from utils.config import Config
from utils.errors import WeightsError
from utils.registry import ModelSpec

FOLDER_VARIABLE = "PADDLE_VIDEO_WEIGHTS"


def weights_folder() -> Path:
    """``~/.paddle/weights``, as in 2019, or what the environment variable PADDLE_VIDEO_WEIGHTS names."""
    return Path(os.environ.get(FOLDER_VARIABLE) or "~/.paddle/weights").expanduser()


def published(spec: ModelSpec, config: Config) -> str:
    """The published weights of ``spec``, for eval and predict without ``--weights``.

    Raises WeightsError when they are not in the folder, or when ``config`` has another number of
    classes: then they are somebody else's classes.
    """
    usual = type(config).model_fields.get("num_classes")
    if usual is not None and config.num_classes != usual.default:
        raise WeightsError(
            f"--weights is missing: MODEL.num_classes is {config.num_classes}, "
            f"but the published weights of {spec.name} know {usual.default} classes"
        )
    return _in_folder(spec.weights, spec.weights_urls, "--weights")


def default_pretrain(spec: ModelSpec, config: Config) -> str | None:
    """The backbone that training starts from without ``--pretrain``; None where there is none.

    Raises WeightsError when there is one, but it is not in the folder.
    """
    depth = getattr(config, "num_layers", 50)
    if not spec.pretrain or depth != 50:
        return None
    return _in_folder(
        spec.pretrain, spec.pretrain_urls, "--pretrain", "; --pretrain=none starts from scratch"
    )


def _in_folder(name: str, urls: tuple[str, ...], flag: str, hint: str = "") -> str:
    path = weights_folder() / name
    if not path.exists():
        raise WeightsError(
            f"{flag} is missing and {path} does not exist: put there {' or '.join(urls)}{hint}"
        )
    return str(path)
