"""Recipes: parsing, precedence, types, owners of keys, and the messages for what is wrong."""

from __future__ import annotations

import pytest

from tests import synthetic
from utils.config import (
    Config,
    check_keys,
    key,
    load_yaml,
    merge_flags,
    merge_overrides,
    parse_yaml,
    resolve,
    to_yaml,
)
from utils.errors import ConfigError


class Part(Config):
    depth: int = key(50, gt=0)
    rate: float = key(0.1)
    crop: int = key(..., "TEST")  # read from TEST in every mode
    names: list[str] = key([], "MODEL")
    drop: bool | None = key(None)


def sections(text: str):
    return parse_yaml(text, "x.yaml")


def test_the_running_mode_wins_over_model_and_model_over_the_default():
    read = sections("MODEL: {depth: 18, rate: 1}\nTEST: {depth: 34, crop: 5}\nINFER: {}")
    assert resolve(Part, read, "TEST", "x").depth == 34
    assert resolve(Part, read, "INFER", "x").depth == 18
    assert resolve(Part, read, "INFER", "x").crop == 5
    assert resolve(Part, read, "INFER", "x").rate == 1.0
    assert resolve(Part, read, "INFER", "x").drop is None


def test_text_that_spells_a_literal_becomes_it_as_in_2019():
    read = sections("MODEL: {a: 1e-4, b: None, c: 'True', d: ./x, e: ['1e-3'], f: ' 1', g: '1+1'}")["MODEL"]
    assert read == {"a": 1e-4, "b": None, "c": True, "d": "./x", "e": ["1e-3"], "f": " 1", "g": "1+1"}


def test_flags_win_over_the_file_and_overrides_over_flags():
    read = sections("TRAIN: {epoch: 5}")
    merge_flags(read, "TRAIN", {"epoch": 3, "batch_size": None, "learning_rate": 0.5})
    merge_overrides(read, ["TRAIN.learning_rate=1e-3", "MODEL.names=[a, b]", "INFER.filelist="])
    assert read["TRAIN"] == {"epoch": 3, "learning_rate": 1e-3}
    assert read["MODEL"] == {"names": ["a", "b"]}
    assert read["INFER"] == {"filelist": ""}


def test_an_override_may_hold_equal_signs_and_blanks():
    read: dict = {}
    merge_overrides(read, ["TRAIN.filelist=a b=c.list"])
    assert read["TRAIN"]["filelist"] == "a b=c.list"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {depth: deep}\nTEST: {crop: 1}", r"x.yaml: MODEL.depth: .*integer; got 'deep'"),
        ("MODEL: {depth: 0}\nTEST: {crop: 1}", r"x.yaml: MODEL.depth: .*greater than 0; got 0"),
        ("MODEL: {depth: 3.0}\nTEST: {crop: 1}", r"x.yaml: MODEL.depth: .*integer"),
        ("MODEL: {}\nTEST: {}", r"x.yaml: TEST.crop: this key is missing"),
    ],
)
def test_a_wrong_value_is_named_with_file_section_and_key(text, message):
    with pytest.raises(ConfigError, match=message):
        resolve(Part, sections(text), "TRAIN", "x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {dept: 1}", r"x.yaml: MODEL: unknown key 'dept'. Did you mean 'depth'\? Known: .*depth"),
        ("MODEL: {crop: 1}", r"MODEL: unknown key 'crop'"),
        ("TRIAN: {depth: 1}", r"unknown section 'TRIAN'. Did you mean 'TRAIN'\?"),
    ],
)
def test_a_key_that_nobody_reads_stops_the_run(text, message):
    with pytest.raises(ConfigError, match=message):
        check_keys(sections(text), [Part], "x.yaml")


def test_dead_keys_of_2019_are_accepted():
    check_keys(sections("TRAIN: {depth: 1, buf_size: 1024}\nTEST: {crop: 1}"), [Part], "x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just text", "expected sections of keys"),
        ("MODEL: 3", "expected sections of keys"),
        ("", "expected sections of keys"),
        ("MODEL: {a: [}", r"x.yaml:1: not a YAML file"),
        ("MODEL: !!python/object/apply:os.system ['true']", "not a YAML file"),
    ],
)
def test_what_is_no_recipe_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        sections(text)


@pytest.mark.parametrize("item", ["epoch=1", "TRAIN.epoch", "TRAIN.=1", ".epoch=1"])
def test_an_override_of_the_wrong_form_says_the_right_one(item):
    with pytest.raises(ConfigError, match=r"expected SECTION\.key=value"):
        merge_overrides({}, [item])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read"):
        load_yaml(tmp_path / "nowhere.yaml")


def test_the_saved_recipe_reads_back_equal(tmp_path):
    read = load_yaml(synthetic.tiny_tsn(tmp_path, tmp_path / "all.list"))
    assert parse_yaml(to_yaml(read), "saved") == read
