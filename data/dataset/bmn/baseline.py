"""What a threshold on one channel finds, to hold BMN and BSN against.

    python data/dataset/bmn/baseline.py --config=configs/demo/bmn.yaml

A channel of the features is taken as it is, negated, or as its magnitude, smoothed or not. Proposals are the
runs of snippets above each of many thresholds, with short gaps closed or not (TAG, Xiong et al.,
https://arxiv.org/abs/1703.02716), rated by how unlikely it is that noise is as
high for as long; then comes soft-NMS as for BMN. The best channel and form in the training subset is scored
on the TEST subset as eval.py scores.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common.convert import parser, positive
from metrics.activitynet.average_recall import average_recall
from models import ZOO
from utils import build, cli, log, temporal
from utils.config import load_yaml
from utils.registry import find

FORMS = {"as it is": np.array, "negated": np.negative, "magnitude": np.abs}
WINDOWS = (1, 5)  # snippets that are averaged
QUANTILES = np.linspace(0.0, 0.95, 20)  # of the channel over a video: the thresholds
GAPS = (0, 1, 3)  # snippets, closed at most
KEPT = 100  # proposals a video


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--config", required=True, help="recipe of BMN")
    flags.add_argument(
        "--num_train", type=positive, default=100, help="training videos to choose on (default: 100)"
    )
    args = flags.parse_args(argv)
    scores = score(args.config, args.num_train)
    print(f"threshold baseline: {log.values_text(scores)}")
    return 0


def score(config: str, num_train: int) -> dict[str, float]:
    """AR@n and AUC, in percent, of the best channel."""
    spec, sections = find("BMN", ZOO), load_yaml(config)
    snms = build.metric(spec, sections, "TEST", config).config
    test = build.reader(spec, sections, "TEST", config)
    sections["TEST"]["subset"] = sections["TRAIN"]["subset"]
    train = build.reader(spec, sections, "TEST", config)
    chosen = [train[i] for i in range(min(num_train, len(train)))]
    tried = {
        (form, window, channel): of_channel(chosen, form, window, channel, snms)["AUC"]
        for form in FORMS
        for window in WINDOWS
        for channel in range(chosen[0]["feat"].shape[0])
    }
    form, window, channel = best = max(tried, key=tried.get)
    print(f"channel {channel} {form}, averaged over {window}: AUC {tried[best]:.2f} in training")
    return of_channel([test[i] for i in range(len(test))], form, window, channel, snms)


def of_channel(
    samples: list[dict[str, Any]], form: str, window: int, channel: int, snms: Any
) -> dict[str, float]:
    truth, found = {}, {}
    for sample in samples:
        seconds = sample["duration_second"]
        values = FORMS[form](sample["feat"][channel].astype(np.float64))
        proposals = propose(np.convolve(values, np.ones(window) / window, mode="same"))
        kept, rated = temporal.soft_nms(
            proposals[:, :2], proposals[:, 2], snms.snms_alpha, snms.snms_t1, snms.snms_t2
        )
        rows = np.column_stack([proposals[kept, :2] * seconds, rated])
        found[sample["video"]] = rows[:KEPT]
        truth[sample["video"]] = np.array([one["segment"] for one in sample["annotations"]]).reshape(-1, 2)
    return average_recall(truth, found).percentages()


def propose(values: np.ndarray) -> np.ndarray:
    """Runs of ``values`` ``(T,)`` above thresholds: ``(P, 3)`` start and end as fractions, and a score."""
    length = len(values)
    spans = set()
    for threshold in np.quantile(values, QUANTILES):
        above = np.concatenate([[False], values >= threshold, [False]])
        start, end = np.flatnonzero(np.diff(above.astype(np.int8))).reshape(-1, 2).T
        for gap in GAPS:
            apart = start[1:] - end[:-1] > gap
            first, last = start[np.r_[True, apart]], end[np.r_[apart, True]]
            spans |= set(zip(first.tolist(), last.tolist(), strict=True))
    start, end = np.array(sorted(spans)).T
    total = np.concatenate([[0.0], np.cumsum(values)])
    inside = (total[end] - total[start]) / (end - start)
    surprise = (inside - values.mean()) * np.sqrt(end - start) / max(float(values.std()), 1e-9)
    scores = 1.0 / (1.0 + np.exp(-surprise))
    return np.column_stack([start / length, end / length, scores])


if __name__ == "__main__":
    sys.exit(cli.run(main))
