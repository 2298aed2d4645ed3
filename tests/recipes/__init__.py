"""A small recipe with generated data for every model: what ``tests/test_every_model.py`` trains.

One module a model with ``tiny(folder, **overrides) -> Path``: it writes the data and a YAML of 2019's form
that trains in a second or two on one core, and returns the YAML. ``overrides`` are keys by section:
``tiny(folder, MODEL={"num_layers": 34})``.
"""

from __future__ import annotations

from tests.recipes import ctcn, tsn

TINY = {
    "TSN": tsn.tiny,
    "CTCN": ctcn.tiny,
}
