"""The 2019 recipes, flags and merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models import VIDEO_TAG, ZOO
from tests.conformance.cases import ROOT, read_json
from utils import cli
from utils.config import MODES, RunConfig, check_keys, load_yaml, merge_flags, parse_yaml, resolve

# 2019 ignored the soft-NMS values of its own recipes; ours carry what it really applied.
DEPARTURES = {
    ("bmn.yaml", section, name): value
    for section in ("TEST", "INFER")
    for name, value in {"snms_alpha": 0.4, "snms_t1": 0.55, "snms_t2": 0.9}.items()
} | {
    ("bsn_pem.yaml", "TEST", name): value
    for name, value in {"snms_alpha": 0.75, "snms_t1": 0.65, "snms_t2": 0.9}.items()
}
FOLDERS = {"video": "configs", "video_tag": "application/video_tag/configs"}


def plain(node: dict) -> Any:
    """A recorded value with its types: ``{"t": type, "v": value}`` to the value itself."""
    kind, value = node["t"], node["v"]
    if kind == "dict":
        return {name: plain(item) for name, item in value.items()}
    if kind in ("list", "tuple"):
        return [plain(item) for item in value] if kind == "list" else tuple(plain(item) for item in value)
    return value


def same(ours: Any, recorded: Any) -> bool:
    """Equal in value and type, at every depth."""
    if type(ours) is not type(recorded):
        return False
    if isinstance(ours, dict):
        return list(ours) == list(recorded) and all(same(ours[k], recorded[k]) for k in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(recorded) and all(map(same, ours, recorded))
    return ours == recorded


@pytest.fixture
def recorded_cli(conformance_dir: Path) -> Path:
    return conformance_dir / "io" / "cli"


def test_every_recipe_parses_to_the_recorded_values_and_types(recorded_cli: Path) -> None:
    recorded = read_json(recorded_cli / "parsed_configs.json")
    assert recorded
    for name, node in recorded.items():
        folder, file = name.split("/")
        expected = plain(node)
        for (where, section, key), value in DEPARTURES.items():
            if where == file and key in expected[section]:
                expected[section][key] = value
        ours = load_yaml(ROOT / FOLDERS[folder] / file)
        assert list(ours) == list(expected), name
        for section, keys in expected.items():
            for key in keys:
                assert same(ours[section].get(key), keys[key]), f"{name}: {section}.{key}"
            assert list(ours[section]) == list(keys), f"{name}: {section}"


def test_every_key_of_a_model_in_the_zoo_has_an_owner_in_every_mode(recorded_cli: Path) -> None:
    files = [(spec, ROOT / spec.config) for spec in (*ZOO, *VIDEO_TAG)]
    files += [(spec, file.with_name(f"{file.stem}-single.yaml")) for spec, file in files[-len(VIDEO_TAG) :]]
    for spec, file in files:
        sections = load_yaml(file)
        check_keys(sections, [RunConfig, *spec.configs()], str(file))
        for mode in MODES:
            for config in spec.configs()[:3]:
                resolve(config, sections, mode, str(file))


def test_merges(recorded_cli: Path) -> None:
    """Ours gives what 2019 gave, and besides the flags that 2019 dropped for want of the key."""
    recorded = read_json(recorded_cli / "config_merge.json")
    assert same(parse_yaml(recorded["yaml"], "merge.yaml"), plain(recorded["parsed"]))
    for merge in recorded["merges"]:
        ours = parse_yaml(recorded["yaml"], "merge.yaml")
        section = merge["section"].upper()
        merge_flags(ours, section, merge["args"])
        expected = plain(merge["result"])
        for name in set(ours[section]) - set(expected[section]):
            assert merge["args"][name] is not None
            del ours[section][name]
        assert same(ours, expected), merge["args"]


def test_every_flag_of_2019_is_understood(recorded_cli: Path) -> None:
    parsers = {
        "train.py": cli.train_parser(ZOO),
        "train_dist.py": cli.train_parser(ZOO),
        "eval.py": cli.eval_parser(ZOO),
        "predict.py": cli.predict_parser(ZOO),
        "inference_model.py": cli.inference_parser(ZOO),
        "tsn_extractor.py": cli.extract_parser(VIDEO_TAG),
    }
    values = {"int": "1", "float": "0.5", "str": "text", "literal_eval": "False", None: None}
    for script, flags in read_json(recorded_cli / "flags.json").items():
        name = script.split("/")[1]
        if name not in parsers:
            assert name == "videotag_test.py", name  # its own flags are tested in tests/test_video_tag.py
            continue
        for flag in flags:
            if flag["dest"] in ("num_trainers", "trainer_id"):
                continue  # the launcher's environment says both, in 2019 too
            value = values[flag["type"]]
            argv = flag["flags"][:1] if value is None else [f"{flag['flags'][0]}={value}"]
            assert getattr(parsers[name].parse_args(argv), flag["dest"]) is not None, f"{script} {argv}"
