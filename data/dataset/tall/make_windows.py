"""Window features of one's own movies, for TALL: features in time in, files of sliding windows out.

    python data/dataset/tall/make_windows.py --features my_features --frames_per_row 16 --out my_windows

Every ``<movie>.npy`` of ``--features`` has a row of D values for each so many frames of the movie (what
``tsn_extractor.py`` and most extractors give). A window is the mean of the rows that it touches. Windows are
called ``<movie>_<start>_<end>.npy``; sizes and overlap are those of TACoS's training windows, ``--sizes``
and ``--overlap`` change them. Movies are called as in the sentences: where those say ``s13-d21.avi``, give
``s13-d21.avi.npy``. Windows that are there are kept.
"""

from __future__ import annotations

import io
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs, parallel
from data.dataset.common.convert import parser, positive
from utils import cli, files
from utils.errors import ConfigError, DataError

SIZES, OVERLAP = (64, 128, 256, 512), 0.8


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--features", required=True, help="folder of <movie>.npy, (rows, D)")
    flags.add_argument("--frames_per_row", type=positive, required=True, help="frames of the movie a row")
    flags.add_argument("--out", required=True, help="folder for the windows")
    flags.add_argument(
        "--sizes", type=positive, nargs="+", default=list(SIZES), help="frames (default: TACoS)"
    )
    flags.add_argument("--overlap", type=float, default=OVERLAP, help="of neighbours (default: 0.8)")
    parallel.add_flag(flags)
    args = flags.parse_args(argv)
    if not 0 <= args.overlap < 1:
        raise ConfigError(f"--overlap={args.overlap}: expected a share in [0, 1)")
    sources = sorted(Path(args.features).glob("*.npy"))
    if not sources:
        raise DataError(f"{args.features}: no <movie>.npy")
    settings = {name: getattr(args, name) for name in ("frames_per_row", "sizes", "overlap")}
    outputs.claim(args.out, settings)
    work = partial(cut, **settings, out=args.out)
    failed, made = 0, 0

    def done(index: int, result: int | parallel.Failure) -> None:
        nonlocal failed, made
        if isinstance(result, parallel.Failure):
            parallel.say(result.message)
            failed += 1
        else:
            made += result

    parallel.run(work, sources, args.num_workers, "windows", done)
    print(f"{args.out}: {made} windows of {len(sources) - failed} movies; {failed} could not be read")
    return 1 if failed else 0


def cut(source: Path, frames_per_row: int, sizes: list[int], overlap: float, out: str) -> int:
    """Write the windows of a movie that are not there yet; how many it has. Raises DataError."""
    try:
        rows = np.load(source, allow_pickle=False).astype(np.float32, copy=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{source}: not a readable .npy file ({error})") from error
    if rows.ndim != 2 or not len(rows):
        raise DataError(f"{source}: expected (rows, D), got {rows.shape}")
    count = 0
    for start, end in spans(len(rows) * frames_per_row, sizes, overlap):
        target = Path(out) / f"{source.stem}_{start}_{end}.npy"
        if not target.is_file():
            write_array(target, window(rows, start, end, frames_per_row))
        count += 1
    return count


def spans(num_frames: int, sizes: list[int], overlap: float) -> list[tuple[int, int]]:
    """Start and end of every window; frames count from 1. A movie shorter than the smallest size is one."""
    found = []
    for size in sizes:
        step = max(1, round(size * (1.0 - overlap)))
        found += [(start, start + size) for start in range(1, num_frames - size + 2, step)]
    return found or [(1, 1 + num_frames)]


def window(rows: np.ndarray, start: int, end: int, frames_per_row: int) -> np.ndarray:
    """Mean of the rows that frames ``start`` to ``end`` (exclusive, counted from 1) touch, ``(D,)``."""
    return rows[(start - 1) // frames_per_row : -(-(end - 1) // frames_per_row)].mean(axis=0)


def write_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    files.write_atomic(path, buffer.getvalue())


if __name__ == "__main__":
    sys.exit(cli.run(main))
