"""How fast clips are read: decoders, formats, worker processes, and memory over many clips.

``python -m benchmark.reader`` writes a 300-frame clip of 340 x 256 pixels (h264, as Kinetics), reads it in
each way in turn, several times over, and prints the best time of each with the range, and the ratios.
"""

from __future__ import annotations

import argparse
import io
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from reader.common import decode, sampling
from reader.kinetics_reader import KineticsReader
from utils import cli
from utils.cli import natural
from utils.loader import Loader

FRAMES, HEIGHT, WIDTH = 300, 256, 340


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", help="a video of your own instead of the made-up one")
    parser.add_argument("--clips", type=natural, default=24, help="clips a timed pass over the loader")
    parser.add_argument("--rounds", type=natural, default=5)
    parser.add_argument("--memory_clips", type=natural, default=1000, help="0 leaves the memory test out")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(args.video) if args.video else write_video(Path(folder) / "clip.mp4")
        decoders(video, args.rounds)
        lists = write_lists(Path(folder), video, args.clips)
        workers(lists, args.clips, args.rounds)
        if args.memory_clips:
            memory(lists["mp4"], args.clips, args.memory_clips)
    return 0


def write_video(path: Path) -> Path:
    """Moving, textured frames: still ones would decode unrealistically fast."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(
        rng.integers(0, 255, (HEIGHT // 4, WIDTH // 2, 3), dtype=np.uint8), (WIDTH * 2, HEIGHT)
    )
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(FRAMES):
            image = np.ascontiguousarray(ground[:, t : t + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def read_all(path: str, choose: decode.Choose) -> list[Image.Image]:
    """The way of 2019: every frame becomes an image, then some are chosen."""
    capture, images = cv2.VideoCapture(path), []
    while True:
        ok, image = capture.read()
        if not ok:
            break
        images.append(Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))
    return [images[index] for index in choose(len(images))]


def best_of(rounds: int, ways: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Seconds of each way, the ways taken in turn so that a slow spell of the machine meets them all."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def show(title: str, seconds: dict[str, list[float]], per: int, base: str) -> None:
    print(title)
    for name, values in seconds.items():
        rate, ratio = per / min(values), min(seconds[base]) / min(values)
        spread = f"{min(values) * 1000 / per:.1f}-{max(values) * 1000 / per:.1f} ms a clip"
        print(f"  {name:28} {rate:7.1f} clips/s  ({spread})  {ratio:5.2f}x {base}")


def decoders(video: Path, rounds: int) -> None:
    def choose(num_frames: int) -> list[int]:
        return sampling.segment_starts(num_frames, 7, 1)

    path, repeats = str(video), 3
    expected = read_all(path, choose)
    for a, b in zip(expected, decode.video_frames(path, choose), strict=True):
        if not np.array_equal(np.asarray(a), np.asarray(b)):
            raise SystemExit("sampled decoding differs from reading all")
    ways = {
        "read all (2019)": lambda: [read_all(path, choose) for _ in range(repeats)],
        "sampled, OpenCV": lambda: [decode.video_frames(path, choose) for _ in range(repeats)],
        "sampled, PyAV": lambda: [decode.video_frames(path, choose, "pyav") for _ in range(repeats)],
    }
    show(
        f"7 of {FRAMES} frames, {WIDTH} x {HEIGHT}; best of {rounds}",
        best_of(rounds, ways),
        repeats,
        "read all (2019)",
    )


def write_lists(folder: Path, video: Path, clips: int) -> dict[str, Path]:
    """The same frames as mp4, as pickled JPEGs and as a folder of images."""
    images = read_all(str(video), lambda n: list(range(n)))
    frames, jpegs = folder / "frames", []
    frames.mkdir()
    for i, image in enumerate(images, 1):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=90)
        jpegs.append(buffer.getvalue())
        (frames / f"img_{i:05d}.jpg").write_bytes(buffer.getvalue())
    (folder / "clip.pkl").write_bytes(pickle.dumps(("./clip", 0, jpegs), protocol=2))
    lines = {
        "mp4": f"{video} 0\n",
        "pkl": f"{folder / 'clip.pkl'}\n",
        "frames": f"{frames} {len(images)} 0\n",
    }
    lists = {}
    for name, line in lines.items():
        lists[name] = folder / f"{name}.list"
        lists[name].write_text(line * clips)
    return lists


def reader_of(name: str, listed: Path) -> KineticsReader:
    config = KineticsReader.Config(format=name, filelist=str(listed), seg_num=3)
    return KineticsReader(config, "TRAIN")


def workers(lists: dict[str, Path], clips: int, rounds: int) -> None:
    batches = [list(range(s, min(s + 4, clips))) for s in range(0, clips, 4)]
    for name, listed in lists.items():
        reader = reader_of(name, listed)
        ways = {
            f"{name}, {n} workers": lambda n=n, reader=reader: [None for _ in Loader(reader, batches, n)]
            for n in (0, 1, 2)
        }
        seconds = best_of(rounds, ways)
        show(
            f"training samples of {clips} clips, {name}; best of {rounds}",
            seconds,
            clips,
            f"{name}, 1 workers",
        )


def memory(listed: Path, clips: int, total: int) -> None:
    """Resident memory of this process while it reads ``total`` clips itself."""
    reader = reader_of("mp4", listed)
    marks = []
    for i in range(total):
        reader[i % clips]
        if i in (total // 10, total - 1):
            marks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(f"peak memory after {total // 10} clips {marks[0]:.0f} MB, after {total} clips {marks[1]:.0f} MB")


if __name__ == "__main__":
    sys.exit(cli.run(main))
