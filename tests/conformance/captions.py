"""What ETS alone needs: sentences recorded one behind the other, with the length of each (Fluid's LoD)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from tests.conformance.cases import Case, assert_close, read_json
from utils import build, program
from utils.config import Sections


def compare_search(
    network: Any, case: Case, batch: dict, fetches: list[dict], arrays: Any, limit: float
) -> None:
    """The sentences found, their words and scores; ``fetches`` describes both arrays."""
    called, row = build.predicting(network, case.spec)
    assert not batch["init_scores"].any()  # fed in 2019; here the search knows how it begins
    assert (batch["init_ids"] == network.vocabulary.start).all()
    outputs = program.eager(called, row, row.outputs)({name: batch[name] for name in row.inputs})
    ids, scores = (outputs[name] for name in row.outputs)
    of_ids, of_scores = fetches
    lengths = np.minimum((ids != network.vocabulary.end).sum(axis=2) + 1, ids.shape[2])
    assert of_ids["recursive_seq_lens"] == [[ids.shape[1]] * len(ids), lengths.flatten().tolist()]
    inside = np.arange(ids.shape[2]) < lengths[:, :, None]
    assert np.array_equal(ids[inside], arrays[of_ids["key"]].reshape(-1)), f"{case.id} words"
    assert_close(scores[inside], arrays[of_scores["key"]].reshape(-1), limit, f"{case.id} scores")


def compare_metric(case: Case, described: dict, sections: Sections, file: str, folder: Path) -> None:
    """The losses that 2019 logged, or the file that it wrote.

    It also logged the means of all ids and of all scores, which mean nothing and are not compared.
    """
    mode = described["mode"].upper()
    metric = build.metric(case.spec, sections, mode, file)
    recorded = case.folder / case.name
    arrays, records = np.load(recorded / "inputs.npz"), []
    for step in described["steps"]:
        if step["op"] == "accumulate" and mode in ("TRAIN", "VALID"):
            metric.reset()
            metric.update({"loss": arrays[step["fetch"][0]].mean()}, {"word_length": np.ones(1)})
        elif step["op"] == "calculate_and_log_out" and mode in ("TRAIN", "VALID"):
            printed = re.search(r"Loss = (\S+)", step["log"][0][2])[1]
            assert f"{metric.result()['loss']:.8f}" == printed
        elif step["op"] == "accumulate":
            outputs, batch = _fetched(metric, step, arrays)
            metric.update(outputs, batch)
            records += metric.decode(outputs, batch)
    for name in described["files"]:
        (written,) = metric.write_results(str(folder), None if mode == "TEST" else records)
        assert written.name == name
        assert json.loads(written.read_text(encoding="utf-8")) == read_json(recorded / name)


def _fetched(metric: Any, step: dict, arrays: Any) -> tuple[dict, dict]:
    ids, scores = (arrays[name].reshape(-1) for name in step["fetch"][:2])
    segments = step["fetch"][2]["literal"]
    counts, lengths = step["fetch"][2]["recursive_sequence_lengths"]
    assert len(counts) == len(segments) == 1
    longest = max(lengths)
    padded = np.full((1, len(lengths), longest), metric.vocabulary.end, np.int64)
    padded_scores = np.zeros((1, len(lengths), longest), np.float32)
    starts = np.cumsum([0, *lengths])
    for i, length in enumerate(lengths):
        # 2019 took the last word for the end of the sentence, whatever it was.
        padded[0, i, : length - 1] = ids[starts[i] : starts[i] + length - 1]
        padded_scores[0, i] = scores[starts[i] + length - 1]
    video, start, end = segments[0]
    batch = {"video": [video], "start_second": [start], "end_second": [end], "sentence": [""]}
    return {"ids": padded, "scores": padded_scores}, {**batch, "index": [len(metric.captions)]}
