"""Pictures of predictions: ``predict.py --visualize`` writes a PNG (or a web page) a sample.

A metric that can be drawn has ``draw(figure, record, sample)``: it draws its record on an empty matplotlib
Figure; ``sample`` holds the fields that the reader gave, without the batch axis. Or it has
``draw_together(figure, records)``, for all records of one video. Everything else (names,
files, what goes wrong) is done here. matplotlib is used without pyplot and without global state, and is
imported on use only: it is slow to import.
"""

from __future__ import annotations

import io
import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from utils import files
from utils.errors import ConfigError

log = logging.getLogger(__name__)

MOST_FRAMES, MOST_BARS = 12, 5
WIDTH, MARGIN, GAP, BAR = 10.0, 0.35, 0.06, 0.36  # inches, as all lengths below
INK, SOFT, TRACK, FIRST, OTHER = "#1f2933", "#7b8794", "#eef1f5", "#2f6fde", "#a9c4f5"
# Beginnings of font names. The first font comes with matplotlib; the others know more scripts, where the
# system has them.
FONTS = (
    *("DejaVu Sans", "Noto Sans CJK", "Noto Sans SC", "Source Han Sans", "WenQuanYi", "Droid Sans Fallback"),
    *("PingFang", "Heiti", "Hiragino Sans", "Microsoft YaHei", "SimHei", "Arial Unicode", "Noto Emoji"),
    *("Symbola", "Noto Sans"),
)


class Pictures:
    """Draws each prediction into ``<save_dir>/pictures`` and notes it in the record.

    Called with the number of the sample in the list, its record, its batch and its place there, it sets
    ``record["picture"]`` to the file's path relative to ``save_dir``. A picture is an extra: where it
    fails, the log says so in one line and the record stays as it was.

    Raises ConfigError (when made) if the metric draws no pictures or matplotlib is missing.
    """

    def __init__(self, save_dir: str | Path, metric: Any) -> None:
        self.save_dir, self.metric, self.is_page = Path(save_dir), metric, hasattr(metric, "page")
        if self.is_page:
            return
        if not (hasattr(metric, "draw") or hasattr(metric, "draw_together")):
            raise ConfigError("--visualize: there are no pictures for this model yet; leave the flag out")
        try:
            import matplotlib.figure  # noqa: F401
        except ImportError as error:
            raise ConfigError(f"--visualize needs matplotlib ({error}): pip install matplotlib") from error

    def __call__(self, index: int, record: dict[str, Any], batch: dict[str, Any], place: int) -> None:
        if hasattr(self.metric, "draw_together"):
            return
        sample = {field: values[place] for field, values in batch.items()}
        parts = self.metric.parts(record) if hasattr(self.metric, "parts") else [record]
        for number, part in enumerate(parts):
            draw = partial(self._draw, {**record, **part}, sample)
            self._write(f"{index:05d}", [part], draw, record.get("video"), None if part is record else number)

    def _draw(self, record: dict[str, Any], sample: dict[str, Any]) -> bytes:
        if self.is_page:
            return self.metric.page(record, sample).encode()
        return _drawn(lambda figure: self.metric.draw(figure, record, sample))

    def together(self, records: Sequence[dict[str, Any]]) -> None:
        """A picture a video, where the metric draws the records of a video together.

        Its number is that of the video's first record in the list.
        """
        if not hasattr(self.metric, "draw_together"):
            return
        of_videos: dict[str, list[int]] = {}
        for i, record in enumerate(records):
            if "error" not in record:
                of_videos.setdefault(record["video"], []).append(i)
        for places in of_videos.values():
            of_video = [records[i] for i in places]
            draw = partial(self.metric.draw_together, records=of_video)
            self._write(f"{places[0]:05d}", of_video, partial(_drawn, draw))

    def _write(
        self,
        index: str,
        records: Sequence[dict[str, Any]],
        make: Callable[[], bytes],
        video: str | None = None,
        part: int | None = None,
    ) -> None:
        try:
            video = video or records[0]["video"]
            stem = f"{index}_{safe_stem(video)}" + ("" if part is None else f"_{part:03d}")
            name = f"pictures/{stem}.{'html' if self.is_page else 'png'}"
            files.write_atomic(self.save_dir / name, make())
            for record in records:
                record["picture"] = name
        except Exception as error:  # whatever it is, the predictions are worth more than the picture
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("no picture of %s: %s", video or f"sample {index}", reason)


def _drawn(draw: Callable[[Any], None]) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(dpi=100, facecolor="white")
    with _quiet():
        draw(figure)
        return png(figure)


def safe_stem(video: str) -> str:
    """The file name of ``video`` without its ending, as a part of a file name on any system.

    Letters and digits of any script stay, all else becomes ``_``; at most 100 bytes of UTF-8.
    """
    stem = re.sub(r"[^\w-]+", "_", Path(video).stem).strip("_")
    return stem.encode("utf-8")[:100].decode("utf-8", errors="ignore") or "sample"


def png(figure: Any) -> bytes:
    """A matplotlib Figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    # Half the time of the usual level 6.
    FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 3})
    return buffer.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it matplotlib says nothing about a letter or a bold face that a font lacks."""
    fonts = logging.getLogger("matplotlib.font_manager")
    level = fonts.level
    fonts.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            yield
    finally:
        fonts.setLevel(level)


def classification(
    figure: Any,
    record: dict[str, Any],
    frames: np.ndarray | None = None,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
) -> None:
    """A video's frames above its best classes, on an empty matplotlib Figure, which is resized.

    Args:
        record: ``{"video", "topk": [{"class_id", "class_name", "probability"}, …]}``, the best first;
            five are shown.
        frames: (F, 3, H, W) float32 as the network got them: RGB in [0, 1], minus ``mean``, over ``std``;
            at most 12, evenly chosen, are shown. None: bars only.
    """
    count = 0 if frames is None else len(frames)
    shown = evenly(count, MOST_FRAMES)
    images = [] if frames is None else pixels(frames[shown], mean, std)
    columns = max(1, len(shown) if len(shown) <= 6 else -(-len(shown) // 2))
    width = min((WIDTH - 2 * MARGIN - (columns - 1) * GAP) / columns, 3.1)  # of one frame
    height = width * frames.shape[2] / frames.shape[3] if count else 0.0
    bars = record["topk"][:MOST_BARS]
    top = 0.95 if count else 0.7  # below title and note
    bars_top = top + -(-len(shown) // columns) * (height + GAP) + (0.2 if count else 0.0)
    sheet = Sheet(figure, bars_top + BAR * len(bars) + 0.25)

    sheet.write(MARGIN, 0.4, Path(record["video"]).name, 68, fontsize=15, fontweight="bold")
    if count:
        few = "" if len(shown) == count else f"{len(shown)} of "
        note = f"{few}{count} frame{'s' * (count > 1)} that the network saw"
        sheet.write(MARGIN, 0.72, note, 90, fontsize=9.5, color=SOFT)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        x, y = MARGIN + column * (width + GAP), top + row * (height + GAP)
        sheet.axes.imshow(image, extent=(x, x + width, y + height, y), aspect="auto")
    _bars(sheet, bars, bars_top)


def _bars(sheet: Sheet, bars: list[dict[str, Any]], top: float) -> None:
    labels = [_cut(_label(entry, sheet), 40) for entry in bars]
    left = MARGIN + 0.25 + 0.088 * max((_columns(label) for label in labels), default=0)
    right = WIDTH - MARGIN - 0.75
    for i, (entry, label) in enumerate(zip(bars, labels, strict=True)):
        y, probability = top + BAR * (i + 0.5), float(entry["probability"])
        length = (right - left) * float(np.clip(np.nan_to_num(probability), 0.0, 1.0))
        sheet.axes.barh(y, right - left, 0.2, left, color=TRACK)
        sheet.axes.barh(y, length, 0.2, left, color=OTHER if i else FIRST)
        style = {"fontsize": 11, "va": "center", "fontweight": "normal" if i else "bold"}
        sheet.write(MARGIN, y, label, 40, **style)
        sheet.write(right + 0.12, y, f"{100 * probability:.1f} %", 12, **style)


def _label(entry: dict[str, Any], sheet: Sheet) -> str:
    name, number = str(entry["class_name"]).replace("_", " "), entry["class_id"]
    if not name.strip() or name == str(number):
        return f"class {number}"
    known = sheet.known(name)
    return name if known == name else f"{known.strip()} (class {number})"


class Sheet:
    """A white sheet on a figure; ``axes`` counts inches from the upper left corner."""

    def __init__(self, figure: Any, height: float) -> None:
        from matplotlib import font_manager

        figure.set_size_inches(WIDTH, height)
        self.axes = figure.add_axes((0, 0, 1, 1), frameon=False)
        self.axes.set_axis_off()
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0), autoscale_on=False)
        installed = font_manager.fontManager.get_font_names()
        named = [name for start in FONTS for name in sorted(installed) if name.startswith(start)]
        self.families = list(dict.fromkeys(named))
        self.faces: dict[str, Any] = {}  # family -> its font file, opened

    def write(self, x: float, y: float, text: str, columns: int, **style: Any) -> None:
        """Text in at most so many columns; a letter that no font has is ``?``, and ``$`` is no formula."""
        text = _cut(self.known(text), columns)
        families = dict.fromkeys([*self.families[:1], *filter(None, map(self._family, text))])
        self.axes.text(
            x, y, text, **{"fontfamily": list(families), "parse_math": False, "color": INK, **style}
        )

    def known(self, text: str) -> str:
        """``text`` with ``?`` for what cannot be drawn; marks that only join or modify letters go."""
        letters = [" " if letter.isspace() else letter for letter in text]
        marks = ("Cf", "Mn", "Me")
        shown = [c if self._family(c) else "" if unicodedata.category(c) in marks else "?" for c in letters]
        return "".join(shown)

    def _family(self, letter: str) -> str | None:
        """The first of the families that has this letter."""
        from matplotlib import font_manager

        for family in self.families:
            if family not in self.faces:
                path = font_manager.findfont(font_manager.FontProperties(family=[family]))
                self.faces[family] = font_manager.get_font(path)
            if self.faces[family].get_char_index(ord(letter)):
                return family
        return None


def _cut(text: str, cells: int) -> str:
    """``text`` in at most ``cells`` columns: a part right of its middle goes, as endings tell more."""
    if _columns(text) <= cells:
        return text
    head = tail = ""
    for letter in text:
        if _columns(head + letter) > 2 * cells // 3:
            break
        head += letter
    for letter in reversed(text):
        if _columns(head + "…" + letter + tail) > cells:
            break
        tail = letter + tail
    return f"{head.rstrip()}…{tail.lstrip()}"


def _columns(text: str) -> int:
    """Width of a text in letters; those of Chinese, and emoji, count two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def evenly(count: int, most: int) -> np.ndarray:
    """At most ``most`` indices spread evenly over ``count``, first and last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def pixels(frames: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(F, 3, H, W) normalised RGB back to (F, H, W, 3) uint8."""
    plain = frames * np.reshape(std, (3, 1, 1)) + np.reshape(mean, (3, 1, 1))
    return np.rint(plain * 255).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
