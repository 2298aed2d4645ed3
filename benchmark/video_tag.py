"""VideoTag on CPU: decoding, features and tags of a 10 s clip; the oneDNN predictor against eager.

``python -m benchmark.video_tag --threads=2`` draws a clip of 300 frames, reads it as predict.py does, runs
the first stage by the oneDNN predictor and by eager in turn, with the same frames at a time; then the second
stage. Weights are random: they do not change the time. It prints seconds a video, frames a second, the ratio,
how far the features differ, and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from utils.cli import natural, run


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="application/video_tag/configs/videotag.yaml")
    parser.add_argument("--frames", type=natural, default=300, help="sampled from the clip (default: 300)")
    parser.add_argument("--frames_at_once", type=natural, default=20)
    parser.add_argument("--threads", type=natural, default=1)
    parser.add_argument("--runs", type=natural, default=3)
    args = parser.parse_args(argv)
    if os.environ.get("OMP_NUM_THREADS") != str(args.threads):  # read when Paddle is loaded
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmark.video_tag", *argv])
    return measure(args)


def measure(args: argparse.Namespace) -> int:
    import numpy as np

    from models import ZOO
    from tests import synthetic
    from utils import build, program
    from utils.config import load_yaml
    from utils.features import FeatureExtractor
    from utils.registry import find

    spec, sections = find("VideoTag", ZOO), load_yaml(args.config)
    sections["MODEL"]["seg_num"] = args.frames
    network = build.network(spec, sections, "INFER", args.config)
    seconds: dict[str, list[float]] = {}

    def timed(name: str, function, *inputs):
        started = time.perf_counter()
        result = function(*inputs)
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    with tempfile.TemporaryDirectory() as folder:
        sections["INFER"]["video_path"] = str(
            synthetic.write_video(Path(folder) / "clip.mp4", synthetic.frames(300, 256, 340), fps=30.0)
        )
        reader = build.reader(spec, sections, "INFER", args.config)
        image = timed("reading", lambda: reader[0]["image"][None])
    eager_row = replace(spec, cpu_path="eager")
    paths = {
        "oneDNN": FeatureExtractor(network, spec, False, frames_at_once=args.frames_at_once),
        "eager": FeatureExtractor(network, eager_row, False, frames_at_once=args.frames_at_once),
    }
    for extract in paths.values():
        extract(image[:, : args.frames_at_once])  # built and warm
    feature = {}
    for _ in range(args.runs):
        for name, extract in paths.items():
            feature[name] = timed(name, extract, image)
    row = replace(eager_row, inputs=("rgb", "rgb_length"))
    tag = program.inference(network.predictor, row, False, False)
    length = np.array([args.frames], np.int64)
    for _ in range(args.runs):
        timed("tags", tag, {"rgb": feature["oneDNN"], "rgb_length": length})

    best = {name: min(values) for name, values in seconds.items()}
    print(f"VideoTag, {args.frames} frames of 224 px, {args.threads} thread(s), best of {args.runs} runs")
    for name in ("reading", "oneDNN", "eager", "tags"):
        print(f"  {name:8} {best[name]:7.2f} s a video  ({args.frames / best[name]:.1f} frames a second)")
    whole = best["reading"] + best["tags"]
    error = program.difference(feature["oneDNN"], feature["eager"])
    print(f"  features: oneDNN {best['eager'] / best['oneDNN']:.2f}x eager; they differ by {error:.1e}")
    fast, slow = whole + best["oneDNN"], whole + best["eager"]
    print(f"  all: {fast:.2f} s a video, {slow / fast:.2f}x eager")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
