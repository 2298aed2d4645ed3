"""A prediction as one HTML file: the browser brings the fonts, so tags of any script are seen."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils import visualize

MOST_FRAMES = 24
STYLE = """
body { font: 16px/1.4 system-ui, sans-serif; color: #1f2933 }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.3rem; overflow-wrap: anywhere } p { color: #7b8794 }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: 4px }
.frames img { width: 100%; display: block }
table { width: 100%; border-collapse: collapse; margin-top: 1.5rem } td { padding: 3px 6px }
td.bar { width: 60% } .bar div { background: #eef1f5 } .bar div div { background: #2f6fde; height: 1rem }
td.number { text-align: right; white-space: nowrap }
"""


def tags(record: dict[str, Any], frames: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> str:
    """``record["topk"]`` with bars under at most 24 of ``frames`` ``(F, 3, H, W)`` float32, normalised RGB.

    Everything is inside the page: it can be sent as it is.
    """
    shown = visualize.evenly(len(frames), MOST_FRAMES)
    images = [_image(visualize.pixels(frames[i : i + 1], mean, std)[0]) for i in shown]
    rows = [
        f"<tr><td>{html.escape(str(entry['class_name']))}</td><td class=bar><div>"
        f"<div style='width:{100 * min(entry['probability'], 1):.1f}%'></div></div></td>"
        f"<td class=number>{100 * entry['probability']:.1f} %</td></tr>"
        for entry in record["topk"]
    ]
    title = html.escape(Path(record["video"]).name)
    note = f"<p>{len(shown)} of {len(frames)} sampled frames</p>" if len(frames) else ""
    return (
        f"<!DOCTYPE html>\n<html><head><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
        f"</head><body><h1>{title}</h1>{note}<div class=frames>{''.join(images)}</div>"
        f"<table>{''.join(rows)}</table></body></html>\n"
    )


def _image(frame: np.ndarray) -> str:
    """``(H, W, 3)`` uint8 as an ``img`` that holds its JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=85)
    return f"<img src='data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}' alt=''>"
