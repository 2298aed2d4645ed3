"""Every row of the zoo against one contract: a new model is tested by being listed."""

from __future__ import annotations

import pytest

from models import ZOO
from tests.conftest import ROOT
from utils.config import load_yaml
from utils.errors import ConfigError
from utils.registry import find

each_model = pytest.mark.parametrize("spec", ZOO, ids=lambda spec: spec.name)


def test_names_are_distinct_in_any_letter_case():
    names = [spec.name.lower() for spec in ZOO]
    assert len(names) == len(set(names))


@each_model
def test_the_parts_exist_and_declare_what_they_read(spec):
    for role in ("network", "reader", "metric"):
        assert spec.part(role).Config.model_fields, role
    assert spec.part("solver").model_fields
    assert load_yaml(ROOT / spec.config)["MODEL"]["name"].lower() == spec.name.lower()
    assert spec.losses[0] == "loss"


@each_model
def test_the_page_of_the_model_lies_beside_it(spec):
    module = spec.network.partition(":")[0].replace(".", "/")
    assert (ROOT / f"{module}.md").is_file()


@each_model
def test_found_in_any_letter_case(spec):
    assert find(spec.name.upper(), ZOO) is find(spec.name.lower(), ZOO) is spec


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown model 'TSNN'. Did you mean 'TSN'\? Known: .*TSN"):
        find("TSNN", ZOO)
