"""A small labelled video set, drawn: shapes that move over coloured grounds, with lists and class names.

    python data/dataset/demo/make_videos.py --out data/demo/videos

Two groups of classes. ``appearance``: any one frame tells them apart, by the pattern on a round patch; its
colour, size, place and path and the ground are random, so that colour or the mean frame do not. ``order``:
pairs of classes whose clips hold the same frames forwards and backwards (rising and falling, growing and
shrinking), so that no mean over frames tells the two of a pair apart, but a network that sees time can.
Every class is its own mirror image, because training mirrors clips at random.

Writes mp4 files below train/, val/ and test/; ``train.list``, ``val.list`` and ``test.list`` (``path label``
lines, absolute paths); ``examples.list`` (one test clip a class); ``labels.json`` (class names by id);
``manifest.json`` (how the set was made; ``classes`` holds id, name and group of each). The same arguments
make the same set; one that is whole is left as it is, one that was interrupted is completed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from tqdm import tqdm

VERSION = 1  # of the drawings: raise it when the same arguments come to give other files
SIZE = 72  # pixels, width and height
NUM_FRAMES = 24  # 2, 3, 4, 6 or 8 segments are of equal length
FPS = 12
CLIPS = {"train": 40, "val": 10, "test": 25}  # of a class
SPLITS = tuple(CLIPS)


@dataclass(frozen=True)
class Kind:
    """A class of clips. ``reverse_of`` names the class whose frames it shows backwards."""

    name: str
    group: str
    shape: str
    motion: str
    reverse_of: str | None = None


KINDS = (
    Kind("moving_rows", "appearance", "rows", "across"),
    Kind("moving_columns", "appearance", "columns", "across"),
    Kind("moving_checkerboard", "appearance", "checkerboard", "across"),
    Kind("moving_rings", "appearance", "rings", "across"),
    Kind("rising_disc", "order", "disc", "rise"),
    Kind("falling_disc", "order", "disc", "rise", reverse_of="rising_disc"),
    Kind("growing_square", "order", "square", "grow"),
    Kind("shrinking_square", "order", "square", "grow", reverse_of="growing_square"),
)
NAMES = [kind.name for kind in KINDS]  # by class id


# ---- one clip --------------------------------------------------------------------------------------


def draw(kind: Kind, split: str, number: int, seed: int = 0) -> np.ndarray:
    """The clip ``number`` of a class: ``(T, H, W, 3)`` uint8 RGB. A pair of classes shares its frames."""
    source = NAMES.index(kind.reverse_of or kind.name)
    rng = np.random.default_rng([seed, SPLITS.index(split), source, number])
    ground = _ground(rng)  # (H, W, 3)
    colour = _lighter(rng, ground)
    x, y, radius, angle = _path(rng, kind.motion)  # (T,) each, but one angle
    # Bands of any width that begin anywhere: with fixed ones the mean frame gives the pattern away.
    width, *phases = rng.uniform(0.22, 0.32), *rng.uniform(0, 1, 2)

    row, column = np.mgrid[:SIZE, :SIZE]
    right = (column - x[:, None, None]) / radius[:, None, None]  # (T, H, W), in radii
    down = (row - y[:, None, None]) / radius[:, None, None]
    u, v = right * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - right * np.sin(angle)
    inside = _shape(kind.shape, u, v, width, phases)
    coverage = np.clip(0.5 + inside * radius[:, None, None], 0, 1)[..., None]  # (T, H, W, 1), soft edges
    frames = np.rint(ground + coverage * (colour - ground)).astype(np.uint8)
    return frames[::-1] if kind.reverse_of else frames


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Two dark colours that run into each other in large soft patches."""
    first, second = rng.uniform(0, 120, (2, 3))
    patches = cv2.resize(rng.uniform(0, 1, (4, 4)), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    return first + 0.6 * patches[..., None] * (second - first)


def _lighter(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A colour that can be seen on ``ground``."""
    while True:
        colour = rng.uniform(90, 255, 3)
        if (colour - ground.mean(axis=(0, 1))).mean() > 60:
            return colour


def _path(rng: np.random.Generator, motion: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Centre x and y and radius in pixels, in each frame, and the angle in radians."""
    time = np.linspace(-0.5, 0.5, NUM_FRAMES)
    still = np.zeros(NUM_FRAMES)
    x, y = SIZE / 2 + rng.uniform(-6, 6, (2, 1)) + still
    if motion == "across":
        way, heading = rng.uniform(8, 20), rng.uniform(0, 2 * np.pi)
        x, y = x + way * np.cos(heading) * time, y + way * np.sin(heading) * time
        return x, y, rng.uniform(20, 28) + still, rng.uniform(-0.25, 0.25)
    if motion == "rise":
        return x, y - rng.uniform(30, 40) * time, rng.uniform(9, 14) + still, 0.0
    small, large = rng.uniform(5, 8), rng.uniform(20, 26)
    return x, y, (small + large) / 2 + (large - small) * time, 0.0


def _shape(name: str, u: np.ndarray, v: np.ndarray, width: float, phases: list[float]) -> np.ndarray:
    """Positive inside the shape, and near its edge the distance to it, at (u, v); all in radii."""
    far = np.hypot(u, v)
    disc = 1 - far

    def bands(value: np.ndarray, phase: float) -> np.ndarray:
        return width / np.pi * np.cos((value / width + 2 * phase) * np.pi)

    if name == "rows":
        return np.minimum(disc, bands(v, phases[0]))
    if name == "columns":
        return np.minimum(disc, bands(u, phases[0]))
    if name == "checkerboard":
        return np.minimum(disc, bands(u, phases[0]) * bands(v, phases[1]) * np.pi / width)
    if name == "rings":
        return np.minimum(disc, bands(far, phases[0]))
    return disc if name == "disc" else 0.9 - np.maximum(abs(u), abs(v))


def write_video(path: Path, frames: np.ndarray) -> None:
    """An mp4 file of ``frames`` ``(T, H, W, 3)`` RGB: h264, or MPEG-4 where PyAV has no x264.

    Raises OSError where it cannot be written.
    """
    part = path.with_suffix(".part.mp4")
    if "libx264" in av.codecs_available:
        with av.open(str(part), "w") as container:
            # With threads the bytes depend on the machine, and with x264's look-ahead on chance.
            options = {"crf": "18", "threads": "1", "tune": "zerolatency"}
            stream = container.add_stream("libx264", rate=FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))
            container.mux(stream.encode())
    else:
        writer = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (SIZE, SIZE))
        if not writer.isOpened():
            raise OSError(f"{part}: cannot be written: neither PyAV's x264 nor OpenCV's MPEG-4 is there")
        for image in frames:
            writer.write(np.ascontiguousarray(image[..., ::-1]))
        writer.release()
    os.replace(part, path)


# ---- the set ---------------------------------------------------------------------------------------


def make(out: str | Path, clips: dict[str, int], seed: int = 0) -> int:
    """Make or complete the set in the folder ``out``; returns the number of videos written.

    Args:
        clips: how many a class, by split.
    """
    out = Path(out).resolve()
    videos = {
        split: [
            (out / split / f"{kind.name}_{number:03}.mp4", kind, number)
            for number in range(clips[split])
            for kind in KINDS
        ]
        for split in SPLITS
    }
    classes = [{"id": label, **asdict(kind)} for label, kind in enumerate(KINDS)]
    about = {"version": VERSION, "seed": seed, "clips_per_class": clips, "classes": classes}
    written = _write_videos(out, videos, about, seed)
    for split in SPLITS:
        _write_if_new(out / f"{split}.list", _lines(videos[split]))
    _write_if_new(out / "examples.list", _lines(videos["test"][: len(KINDS)]))
    _write_if_new(out / "labels.json", json.dumps(NAMES, indent=2) + "\n")
    _write_if_new(out / "manifest.json", json.dumps({"complete": True, **about}, indent=2) + "\n")
    return written


def _write_videos(out: Path, videos: dict[str, list], about: dict, seed: int) -> int:
    manifest = out / "manifest.json"
    before = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    before.pop("complete", None)
    files = [path for split in SPLITS for path, _, _ in videos[split]]
    if before != about:
        for path in files:  # of another seed or version
            path.unlink(missing_ok=True)
    todo = [(split, *video) for split in SPLITS for video in videos[split] if not video[0].exists()]
    if todo:
        # Said before the first video, so that an interrupted set is known by its arguments.
        _write_if_new(manifest, json.dumps({"complete": False, **about}, indent=2) + "\n")
    for split, path, kind, number in tqdm(todo, desc="drawing videos", unit="video", disable=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, draw(kind, split, number, seed))
    return len(todo)


def _lines(videos: list[tuple[Path, Kind, int]]) -> str:
    return "".join(f"{path} {NAMES.index(kind.name)}\n" for path, kind, _ in videos)


def _write_if_new(path: Path, text: str) -> None:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder for the set")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other clips")
    for split, count in CLIPS.items():
        parser.add_argument(f"--{split}", type=int, default=count, help="clips a class")
    args = parser.parse_args()
    try:
        written = make(args.out, {split: getattr(args, split) for split in SPLITS}, args.seed)
    except OSError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command completes the set", file=sys.stderr)
        return 130
    print(f"{args.out}: {written} videos made" if written else f"{args.out}: there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
