"""Captions of segments: the loss while training, then sentences, their scores and 2019's result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metrics import caption_scores
from utils import files
from utils.config import Config, key
from utils.timeline import Segment, timeline
from utils.vocabulary import Vocabulary

# Where 2019 wrote without --save_dir.
EVALUATED, PREDICTED = Path("data/evaluate_results"), Path("data/predict_results")


class Captions:
    """While training: ``outputs["loss"]``, the mean over ``batch["word_length"].sum()`` words; the
    result is ``loss``, the mean over all words.

    In evaluation: ``outputs["ids"]`` (N, K, L + 1) and ``scores``, captions from the best on, as
    ``models/common/beam_search.py`` gives them; ``batch`` holds ``video``, ``index`` (place in the list),
    ``start_second``, ``end_second`` and the true ``sentence``, which may be empty. The result is ``score``,
    the mean log-probability of the best captions, ``num_words``, their mean length, ``exact_match``, the
    percentage that are the true sentence, and what ``metrics/caption_scores.py`` gives.
    """

    class Config(Config):
        dict_file: str = key(..., "MODEL")
        START: str = key("<s>", "MODEL")
        END: str = key("<e>", "MODEL")
        UNK: str = key("<unk>", "MODEL")
        # Files of ActivityNet Captions; without them captions are compared with the sentences of the list.
        references: list[str] = key([], "TEST")
        tious: list[float] = key(list(caption_scores.TIOUS), "TEST", min_length=1)

    def __init__(self, config: Captions.Config) -> None:
        self.config = config
        self.vocabulary = Vocabulary(config.dict_file, config.START, config.END, config.UNK)
        self.references = caption_scores.read_references(config.references)
        self.reset()

    def reset(self) -> None:
        self.loss_sum, self.num_words = 0.0, 0
        self.captions: list[tuple[int, dict[str, Any], str]] = []  # place in the list, record, true sentence

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> None:
        if "ids" not in outputs:
            count = int(np.sum(batch["word_length"]))
            self.loss_sum += float(outputs["loss"]) * count
            self.num_words += count
            return
        places = [int(i) for i in batch["index"]]
        self.captions += zip(places, self.decode(outputs, batch), batch["sentence"], strict=True)

    def running(self) -> dict[str, float]:
        """For a line of the log: all but the scores by references."""
        if not self.captions:
            return {"loss": self.loss_sum / self.num_words} if self.num_words else {}
        records = [record for _, record, _ in self.captions]
        values = {
            "score": float(np.mean([record["score"] for record in records])),
            "num_words": float(np.mean([len(record["sentence"].split()) for record in records])),
        }
        if all(sentence for *_, sentence in self.captions):
            right = [record["sentence"] == " ".join(true.split()) for _, record, true in self.captions]
            values["exact_match"] = 100.0 * float(np.mean(right))
        return values

    def result(self) -> dict[str, float]:
        """See the class; empty before the first sample."""
        if not self.captions:
            return self.running()
        return {**self.running(), **caption_scores.score(self._by_video(), self._true(), self.config.tious)}

    def _by_video(self) -> caption_scores.Predictions:
        return _results([record for _, record, _ in self.captions])

    def _true(self) -> list[caption_scores.References]:
        """The references: files, else the list's own sentences."""
        if self.references:
            return self.references
        listed: caption_scores.References = {}
        for _, record, sentence in self.captions:
            if sentence:
                entry = listed.setdefault(record["video"], {"timestamps": [], "sentences": []})
                entry["timestamps"].append(record["timestamp"])
                entry["sentences"].append(sentence)
        return [listed] if listed else []

    def result_with_failures(self, num_failed: int) -> dict[str, float]:
        """``exact_match`` if every segment that could not be read were described wrong."""
        scored = len(self.captions) / max(1, len(self.captions) + num_failed)
        return {name: v * scored for name, v in self.running().items() if name == "exact_match"}

    def state(self) -> tuple[float, int, list]:
        """What ``merge`` puts together; plain values, so that ranks can exchange it."""
        return self.loss_sum, self.num_words, list(self.captions)

    def merge(self, states: list[tuple[float, int, list]]) -> None:
        """Become all of ``states``, one a rank; captions in the order of the list."""
        self.loss_sum = sum(loss for loss, _, _ in states)
        self.num_words = sum(count for _, count, _ in states)
        self.captions = sorted((c for *_, captions in states for c in captions), key=lambda c: c[0])

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a segment: ``{"video", "timestamp": [start, end], "sentence", "score", "candidates"}``;
        the candidates, ``{"sentence", "score"}``, begin with the best, which is the sentence.

        A sentence is every word between START and END, also where it ends without one because it is as long
        as a caption may be; 2019 cut the last word of those.
        """
        records = []
        for i, video in enumerate(batch["video"]):
            candidates = [
                {"sentence": self.vocabulary.decode(ids.tolist()), "score": float(scores[-1])}
                for ids, scores in zip(outputs["ids"][i], outputs["scores"][i], strict=True)
            ]
            segment = [float(batch["start_second"][i]), float(batch["end_second"][i])]
            records.append(
                {"video": str(video), "timestamp": segment, **candidates[0], "candidates": candidates}
            )
        return records

    def describe(self, record: dict[str, Any]) -> str:
        """A record as the line that predict prints."""
        start, end = record["timestamp"]
        return f"{record['video']} {start:g}-{end:g} s: {record['sentence']} (score {record['score']:.3f})"

    def write_results(self, save_dir: str | None, records: list[dict] | None = None) -> list[Path]:
        """2019's ``ETS_test_res_.json`` after evaluation, ``ETS_infer_res_.json`` after prediction."""
        if records is None:
            path, results = Path(save_dir or EVALUATED) / "ETS_test_res_.json", self._by_video()
        else:
            described = [record for record in records if "error" not in record]
            path, results = Path(save_dir or PREDICTED) / "ETS_infer_res_.json", _results(described)
        files.write_json(path, {"version": "VERSION 1.0", "results": results, "external_data": {}})
        return [path]

    def draw_together(self, figure: Any, records: list[dict[str, Any]]) -> None:
        """The captions of one video over time, on an empty matplotlib Figure."""
        segments = [Segment(record["sentence"], *record["timestamp"]) for record in records]
        timeline(figure, records[0]["video"], max(s.end_second for s in segments), segments)


def _results(records: list[dict[str, Any]]) -> caption_scores.Predictions:
    """2019's form: the segments of each video, in the order of the list."""
    results: caption_scores.Predictions = {}
    for record in records:
        entry = {"timestamp": record["timestamp"], "sentence": record["sentence"]}
        results.setdefault(record["video"], []).append(entry)
    return results
