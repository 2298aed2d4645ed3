"""BLEU, METEOR, ROUGE and CIDEr of captions, as ActivityNet Captions are scored (Krishna et al., ICCV 2017).

A caption is compared with every reference of its video whose segment overlaps its own by a temporal IoU of at
least a threshold, each pair by itself; one without any scores nothing. Scores are means over the videos of
the references, a video without captions counting 0, and then over the thresholds, in percent. CIDEr weighs
words by the references of one video, as that protocol does.

    python -m metrics.caption_scores ETS_test_res_.json --references val_1.json val_2.json

The scorers are those of pycocoevalcap, an optional package; METEOR needs Java, too. Words are split by
``utils/sentences.py``, so that all but METEOR do without.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils import cli, files
from utils.errors import DataError
from utils.sentences import tokenize

log = logging.getLogger(__name__)

TIOUS = (0.3, 0.5, 0.7, 0.9)
UNMATCHED = "\u2205"  # the reference of a caption that meets none: no caption holds it
Predictions = dict[str, list[dict[str, Any]]]  # video -> [{"timestamp": [start, end], "sentence"}]
References = dict[str, dict[str, Any]]  # video -> {"timestamps": [[start, end], …], "sentences": [str, …]}


def score(
    predictions: Predictions, references: Sequence[References], tious: Sequence[float] = TIOUS
) -> dict[str, float]:
    """``Bleu_1`` … ``Bleu_4``, ``METEOR``, ``ROUGE_L`` and ``CIDEr`` by name, in percent.

    Empty without pycocoevalcap, and without METEOR where there is no Java: the log says so in one line.
    """
    scorers = list(_scorers())
    videos = sorted({video for reference in references for video in reference})
    sums: dict[str, float] = {}
    for tiou in tious if videos else ():
        pairs = {video: _pairs(predictions.get(video, ()), references, video, tiou) for video in videos}
        for names, scorer in scorers:
            of_videos = [_of_video(scorer, of_video, len(names)) for of_video in pairs.values()]
            for name, value in zip(names, np.mean(of_videos, axis=0), strict=True):
                sums[name] = sums.get(name, 0.0) + 100.0 * float(value) / len(tious)
    for _, scorer in scorers:
        if hasattr(scorer, "meteor_p"):  # a process of its own
            _end(scorer)
    return sums


def _scorers() -> Iterator[tuple[list[str], Any]]:
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        log.warning("captions are not scored (%s): pip install pycocoevalcap", error)
        return
    yield [f"Bleu_{n}" for n in range(1, 5)], Bleu(4)
    if shutil.which("java"):
        yield ["METEOR"], Meteor()
    else:
        log.warning("METEOR is not computed: it needs Java (Debian: apt-get install default-jre-headless)")
    yield ["ROUGE_L"], Rouge()
    yield ["CIDEr"], Cider()


def _end(meteor: Any) -> None:
    """End the process of METEOR and close what leads to it: the package leaves both to chance."""
    process = meteor.meteor_p
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


def _pairs(
    captions: Sequence[dict], references: Sequence[References], video: str, tiou: float
) -> list[tuple[str, str]]:
    """What is compared for a video: (caption, reference)."""
    pairs = []
    for caption in captions:
        ours = " ".join(tokenize(caption["sentence"]))
        met = [
            " ".join(tokenize(sentence))
            for reference in references
            for segment, sentence in zip(*_of(reference, video), strict=True)
            if iou(caption["timestamp"], segment) >= tiou
        ]
        pairs += [(ours, sentence) for sentence in met or [UNMATCHED]]
    return pairs


def _of(reference: References, video: str) -> tuple[list, list]:
    entry = reference.get(video, {"timestamps": [], "sentences": []})
    return entry["timestamps"], entry["sentences"]


def iou(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two segments ``(start, end)``; 0 where both are empty."""
    intersection = max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
    union = max(first[1], second[1]) - min(first[0], second[0])
    return intersection / union if union > 0 else 0.0


def _of_video(scorer: Any, pairs: list[tuple[str, str]], count: int) -> np.ndarray:
    if not pairs:
        return np.zeros(count)
    ours = {i: [caption] for i, (caption, _) in enumerate(pairs)}
    theirs = {i: [reference] for i, (_, reference) in enumerate(pairs)}
    quiet = {"verbose": 0} if count > 1 else {}  # BLEU prints otherwise
    value, _ = scorer.compute_score(theirs, ours, **quiet)
    return np.reshape(np.asarray(value, np.float64), count)


def read_references(paths: Sequence[str]) -> list[References]:
    """ActivityNet-Captions files: video -> ``timestamps`` and ``sentences``. Raises DataError."""
    found = []
    for path in paths:
        content = _read_json(path)
        for video, entry in content.items():
            good = isinstance(entry, dict) and {"timestamps", "sentences"} <= entry.keys()
            if not good or len(entry["timestamps"]) != len(entry["sentences"]):
                raise DataError(f"{path}: {video}: expected as many 'timestamps' as 'sentences'")
        found.append(content)
    return found


def read_predictions(path: str) -> Predictions:
    """``results`` of a file of 2019's form (ETS_test_res_.json). Raises DataError."""
    results = _read_json(path).get("results")
    if not isinstance(results, dict):
        raise DataError(f"{path}: expected 'results': {{video: [{{'timestamp', 'sentence'}}, …]}}")
    return results


def _read_json(path: str) -> dict:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object, got {type(content).__name__}")
    return content


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="metrics.caption_scores", description=__doc__.splitlines()[0])
    parser.add_argument("results", help="result file: ETS_test_res_.json, or another of its form")
    parser.add_argument(
        "--references", nargs="+", required=True, help="captions of ActivityNet: val_1.json …"
    )
    parser.add_argument("--tious", nargs="+", type=float, default=list(TIOUS), help="thresholds of overlap")
    parser.add_argument("--out", help="also write the scores to this JSON file")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    scores = score(read_predictions(args.results), read_references(args.references), args.tious)
    for name, value in scores.items():
        print(f"{name:8} {value:.2f}")
    if args.out:
        files.write_json(args.out, scores)
    return 0 if scores else 1


if __name__ == "__main__":
    sys.exit(cli.run(main))
