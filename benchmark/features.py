"""Reading features and scoring tags: ``python -m benchmark.features``.

Records a second from made-up shards of YouTube-8M's sizes (300 rows of 1024 and 128 bytes a record), in
shuffled order, by one process: pickles and TFRecords record by record, against 2019's way, unpickling the
shard (here with the restricted unpickler) and taking its records. Then the time and the peak memory of the
metric over ``--videos`` videos of 3862 classes. Best of ``--rounds``.
"""

from __future__ import annotations

import argparse
import pickle
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from metrics.youtube8m import YouTube8M
from reader.common import tfrecord
from reader.feature_reader import FeatureReader
from utils import cli, safe_pickle

ROWS, DIMS = 300, {"rgb": 1024, "audio": 128}
BATCH = 1000


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--records", type=cli.natural, default=256, help="of the shard (default: 256)")
    parser.add_argument("--videos", type=cli.natural, default=100_000, help="scored (default: 100000)")
    parser.add_argument("--rounds", type=cli.natural, default=3, help="default: 3")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        _reading(Path(folder), args.records, args.rounds)
    _scoring(args.videos)
    return 0


def _reading(folder: Path, count: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    streams = [
        {name: rng.integers(0, 256, (ROWS, dim), dtype=np.uint8) for name, dim in DIMS.items()}
        for _ in range(count)
    ]
    records = (tfrecord.serialize(f"v{i}", [i % 10], made) for i, made in enumerate(streams))
    tfrecord.write(folder / "a.tfrecord", records)
    entries = [
        {"video": f"v{i}", "feature": s["rgb"], "audio": s["audio"], "label": [i % 10], "nframes": ROWS}
        for i, s in enumerate(streams)
    ]
    # Python 2 wrote protocol 2; of Python 3's protocols the fourth is the usual one.
    (folder / "a.pkl").write_bytes(pickle.dumps(entries, protocol=4))
    del streams, entries
    order = list(range(count))
    random.Random(0).shuffle(order)

    def whole() -> None:
        loaded = safe_pickle.load(folder / "a.pkl", encoding="bytes")
        for i in order:
            loaded[i]["feature"] * 4.0 / 255.0 + (4.0 / 512.0 - 2.0)
            loaded[i]["audio"] * 4.0 / 255.0 + (4.0 / 512.0 - 2.0)

    def by_record(kind: str) -> Callable[[], None]:
        listed = folder / f"{kind}.list"
        listed.write_text(f"{folder / 'a'}.{kind}\n")

        def read() -> None:
            reader = FeatureReader(FeatureReader.Config(filelist=str(listed)), "TRAIN")
            for i in order:
                reader[i]

        return read

    baseline = _best(whole, rounds)
    print(f"2019's way, the shard unpickled: 1.0 x ({count / baseline:.0f} records/s)")
    for kind in ("pkl", "tfrecord"):
        seconds = _best(by_record(kind), rounds)
        print(f"{kind}, record by record: {baseline / seconds:.1f} x ({count / seconds:.0f} records/s)")


def _best(work: Callable[[], None], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def _scoring(videos: int) -> None:
    rng = np.random.default_rng(0)
    probability = rng.random((BATCH, 3862), dtype=np.float32)
    label = (rng.random((BATCH, 3862)) < 0.001).astype(np.float32)
    metric = YouTube8M(YouTube8M.Config())
    started = time.perf_counter()
    for i in range(0, videos, BATCH):
        turn = i // BATCH % 3862  # other classes each time, at no cost
        part = slice(0, min(BATCH, videos - i))
        metric.update(
            {"probability": np.roll(probability[part], turn, axis=1)},
            {"label": np.roll(label[part], turn // 2, axis=1)},
        )
    updated = time.perf_counter()
    metric.result()
    done = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"metric, {videos} videos x 3862 classes, top 20: {done - started:.1f} s "
        f"({done - updated:.1f} s of it the final values); peak memory of the process {peak:.0f} MB"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
