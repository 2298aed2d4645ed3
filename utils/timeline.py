"""Pictures of actions in time: one bar a segment over the seconds of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.visualize import FIRST, INK, MARGIN, OTHER, SOFT, TRACK, WIDTH, Sheet

ROW, TOP, LABEL_COLUMNS = 0.34, 0.95, 34  # inches, inches, letters
TRUTH = "#3a9d6c"


@dataclass(frozen=True)
class Segment:
    """What happens from ``start_second`` to ``end_second``; ``score`` is None where there is none."""

    label: str
    start_second: float
    end_second: float
    score: float | None = None


def timeline(
    figure: Any,
    video: str,
    duration_second: float,
    segments: Sequence[Segment],
    ground_truth: Sequence[Segment] = (),
    note: str = "",
    unit: str = "s",
) -> None:
    """One row a segment, in the order given, below the rows of the annotation.

    ``figure`` is an empty matplotlib Figure, which is resized. The first segment is emphasised: it is the
    best. Segments that reach outside ``[0, duration_second]`` are cut there. ``unit`` is what the
    time axis says, where it is not seconds.
    """
    rows = [*((TRUTH, segment) for segment in ground_truth)]
    rows += [(OTHER if i else FIRST, segment) for i, segment in enumerate(segments)]
    bottom = TOP + ROW * max(len(rows), 1)
    sheet = Sheet(figure, bottom + 0.6)
    sheet.write(MARGIN, 0.4, Path(video).name or video, 68, fontsize=15, fontweight="bold")
    counted = f"{len(segments)} segment{'s' * (len(segments) != 1)}"
    if ground_truth:
        counted += f"; green: {len(ground_truth)} annotated"
    sheet.write(MARGIN, 0.72, note or counted, 90, fontsize=9.5, color=SOFT)

    left, right = MARGIN + 2.9, WIDTH - MARGIN - 0.55
    scale = (right - left) / max(duration_second, 1e-6)  # inches a second
    for second in ticks(duration_second):
        x = left + second * scale
        sheet.axes.plot([x, x], [TOP, bottom], color=TRACK, linewidth=1, zorder=0)
        sheet.write(x, bottom + 0.22, f"{second:g} {unit}", 12, fontsize=9, color=SOFT, ha="center")
    for i, (colour, segment) in enumerate(rows):
        y = TOP + ROW * (i + 0.5)
        start = min(max(segment.start_second, 0.0), duration_second)
        end = min(max(segment.end_second, start), duration_second)
        sheet.axes.barh(y, (right - left), 0.2, left, color=TRACK, zorder=1)
        sheet.axes.barh(
            y, max((end - start) * scale, 0.02), 0.2, left + start * scale, color=colour, zorder=2
        )
        sheet.write(MARGIN, y, segment.label, LABEL_COLUMNS, fontsize=10, va="center", color=INK)
        if segment.score is not None:
            sheet.write(right + 0.1, y, f"{segment.score:.2f}", 8, fontsize=10, va="center")


def ticks(duration_second: float, most: int = 8) -> list[float]:
    """Round numbers of seconds from 0 to the end, at most ``most`` of them."""
    steps = (base * 10.0**power for power in range(-2, 7) for base in (1, 2, 5))
    step = next((step for step in steps if duration_second / step < most), duration_second)
    return [step * i for i in range(int(duration_second / step) + 1)] if duration_second > 0 else [0.0]
