"""Top-1 accuracy by group of classes, from predictions of the demo's test list; models side by side.

    python data/dataset/demo/report.py --videos data/demo/videos \\
        --predictions TSN_infer_result.json TSM_infer_result.json

A mean over frames, such as TSN's, can score 1.0 on ``appearance``, but only 0.5 on ``order``: it finds
the pair, and guesses which of the two it is. TSM, which sees neighbouring frames together, can score 1.0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def accuracy(videos: str | Path, predictions: str | Path) -> dict[str, tuple[float, int]]:
    """Share of right first classes and number of clips: ``all``, then each group of classes.

    Every clip of the test list counts; one that could not be read, or is not among the predictions, is
    wrong.
    """
    videos = Path(videos)
    classes = json.loads((videos / "manifest.json").read_text(encoding="utf-8"))["classes"]
    results = json.loads(Path(predictions).read_text(encoding="utf-8"))["results"]
    first = {record["video"]: record["topk"][0]["class_id"] for record in results if "topk" in record}
    hits: dict[str, list[bool]] = {"all": []}
    for line in (videos / "test.list").read_text(encoding="utf-8").splitlines():
        path, label = line.rsplit(" ", 1)
        for name in ("all", classes[int(label)]["group"]):
            hits.setdefault(name, []).append(first.get(path) == int(label))
    return {name: (sum(right) / len(right), len(right)) for name, right in hits.items()}


def table(videos: str | Path, predictions: list[str]) -> str:
    """A line a group of classes, a column a file of predictions, headed by its model."""
    models = [json.loads(Path(file).read_text(encoding="utf-8"))["model"] for file in predictions]
    shares = [accuracy(videos, file) for file in predictions]
    lines = [f"{'top-1':10} {'clips':>5}" + "".join(f" {model:>8}" for model in models)]
    for group, (_, count) in shares[0].items():
        lines.append(f"{group:10} {count:5}" + "".join(f" {share[group][0]:8.3f}" for share in shares))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--videos", required=True, help="folder that make_videos.py wrote")
    parser.add_argument(
        "--predictions",
        required=True,
        nargs="+",
        help="what predict.py wrote for its test.list, a file a model",
    )
    args = parser.parse_args()
    try:
        print(table(args.videos, args.predictions))
    except OSError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
