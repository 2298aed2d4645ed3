"""A small recipe with generated data for every model: what ``tests/test_every_model.py`` trains.

One module a model with ``tiny(folder, **overrides) -> Path``: it writes the data and a YAML of 2019's form
that trains in a second or two on one core, and returns the YAML. ``overrides`` are keys by section:
``tiny(folder, MODEL={"num_layers": 34})``.
"""

from __future__ import annotations

from tests.recipes import (
    attention_cluster,
    attention_lstm,
    bmn,
    bsn_pem,
    bsn_tem,
    ctcn,
    ets,
    nextvlad,
    nonlocal_net,
    stnet,
    tall,
    tsm,
    tsn,
    videotag,
)

TINY = {
    "TSN": tsn.tiny,
    "TSM": tsm.tiny,
    "STNET": stnet.tiny,
    "NONLOCAL": nonlocal_net.tiny,
    "AttentionCluster": attention_cluster.tiny,
    "AttentionLSTM": attention_lstm.tiny,
    "NEXTVLAD": nextvlad.tiny,
    "CTCN": ctcn.tiny,
    "BMN": bmn.tiny,
    "BsnTem": bsn_tem.tiny,
    "BsnPem": bsn_pem.tiny,
    "ETS": ets.tiny,
    "TALL": tall.tiny,
    "VideoTag": videotag.tiny,
}
