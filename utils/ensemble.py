"""Average the predictions of several models: ``python -m utils.ensemble A.json B.json --out AB.json``.

The sequence models of YouTube-8M do about equally well and err differently, so their mean does better. Each
file is an ``<Model>_infer_result.json`` of predict.py over the same videos. A class that a file does not
list for a video counts with probability 0 there: predict with ``--infer_topk`` of all classes, or of so many
that the rest does not matter. Videos that failed in one of the files stay as failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils import cli, files, log
from utils.errors import ConfigError, DataError

logger = logging.getLogger("ensemble")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("results", nargs="+", help="result files of predict.py, one a model")
    parser.add_argument("--weights", help="weight of each file, with commas between; default: equal")
    parser.add_argument("--topk", type=cli.natural, default=20, help="classes a video (default: 20)")
    parser.add_argument("--out", required=True, help="file to write, of the same form")
    args = parser.parse_args(argv)
    log.setup(0)
    weights = parse_weights(args.weights, len(args.results))
    reports = [read_report(file) for file in args.results]
    records = average([report["results"] for report in reports], weights, args.topk, args.results)
    head = {"version": "VERSION 1.0", "model": [report.get("model") for report in reports]}
    sources = [{"file": file, "weight": w} for file, w in zip(args.results, weights, strict=True)]
    files.write_json(args.out, {**head, "averaged": sources, "results": records})
    failed = sum("error" in record for record in records)
    logger.info(f"{args.out}: {len(records)} videos, {failed} failed")
    return 1 if failed else 0


def parse_weights(text: str | None, count: int) -> list[float]:
    """``count`` weights that sum to 1. Raises ConfigError."""
    try:
        values = [float(part) for part in text.split(",")] if text else [1.0] * count
    except ValueError as error:
        raise ConfigError(f"--weights={text}: expected numbers with commas between") from error
    if len(values) != count or min(values) < 0 or not 0 < sum(values) < float("inf"):
        raise ConfigError(f"--weights={text}: expected {count} numbers >= 0, one a file, not all 0")
    return [value / sum(values) for value in values]


def read_report(file: str) -> dict[str, Any]:
    """A result file of predict.py. Raises DataError."""
    try:
        report = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    records = report.get("results") if isinstance(report, dict) else None
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and "video" in record and ("topk" in record or "error" in record)
        for record in records
    ):
        raise DataError(f"{file}: expected a result file of predict.py with ranked classes")
    return report


def average(
    results: Sequence[list[dict[str, Any]]], weights: Sequence[float], topk: int, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Records of the first file's order with the weighted means, the best ``topk`` classes first.

    Raises DataError when the files are not about the same videos.
    """
    order = [record["video"] for record in results[0]]
    by_video = [{record["video"]: record for record in records} for records in results]
    for name, records, found in zip(names, results, by_video, strict=True):
        if len(found) != len(records):
            raise DataError(f"{name}: a video is listed twice")
        different = set(found) ^ set(order)
        if different:
            raise DataError(
                f"{name} and {names[0]}: not the same videos; {len(different)} are in one of them only, "
                f"e.g. {min(different)}"
            )
    return [_mean([found[video] for found in by_video], weights, topk) for video in order]


def _mean(records: Sequence[dict[str, Any]], weights: Sequence[float], topk: int) -> dict[str, Any]:
    for record in records:
        if "error" in record:
            return {"video": record["video"], "error": record["error"]}
    probability: dict[int, float] = {}
    class_name: dict[int, str] = {}
    for record, weight in zip(records, weights, strict=True):
        for entry in record["topk"]:
            k = entry["class_id"]
            probability[k] = probability.get(k, 0.0) + weight * entry["probability"]
            class_name.setdefault(k, entry["class_name"])
    best = sorted(probability, key=lambda k: (-probability[k], k))[:topk]
    ranked = [{"class_id": k, "class_name": class_name[k], "probability": probability[k]} for k in best]
    return {"video": records[0]["video"], "topk": ranked}


if __name__ == "__main__":
    sys.exit(cli.run(main))
