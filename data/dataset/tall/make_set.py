"""A small set in the form of TACoS, made up: cooking movies as features of sliding windows, and sentences.

    python data/dataset/tall/make_set.py --out data/demo/tall

In a movie one action follows the other, with idle time between them: a verb and a thing, such as cut and
carrot. A frame shows the sum of a pattern of the verb and one of the thing, noise, and what is particular to
the movie; a window is the mean of its frames. Each action is spoken of in two sentences, of words in any of
several forms, as vectors of a bag of words (``encode_sentences.py``). A fifth of all pairs of verb and thing
are in test movies alone. No action comes twice in a movie.

Writes ``train/`` and ``test/`` (windows of 64, 128 and 256 frames; the test has no 64, as in TACoS),
``train_clip-sentvec.pkl``, ``test_clip-sentvec.pkl``, ``video_allframes_info.pkl`` in 2019's form, and
``test_sentences.json`` with the text. The same arguments make the same set; windows that are there are kept.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser, positive
from data.dataset.tall.encode_sentences import bag_of_words
from data.dataset.tall.make_windows import write_array
from utils import cli, files

VERSION = 1  # of the numbers drawn: raise it when the same arguments come to give other files
VERBS = {
    "cut": ("cuts", "is cutting", "chops", "slices"),
    "wash": ("washes", "is washing", "rinses", "cleans"),
    "peel": ("peels", "is peeling", "takes the skin off"),
    "cook": ("cooks", "is cooking", "boils", "heats"),
    "fetch": ("fetches", "takes out", "gets"),
    "season": ("seasons", "is seasoning", "salts", "spices"),
}
THINGS = ("carrot", "potato", "onion", "egg", "leek", "pepper")
PEOPLE = ("the person", "a man", "she", "he", "the cook")
STRENGTH, NOISE, OF_MOVIE = 1.0, 2.0, 0.3  # standard deviations of patterns, of frames, of movies
SIZES = {"train": (64, 128, 256), "test": (128, 256)}
STEP = 0.25  # of a window's size, from one to the next
SHORTEST, LONGEST, IDLE = 60, 260, 60  # frames of an action, most frames between two
FPS = 29.4


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--out", required=True, help="folder for the set")
    flags.add_argument("--num_train", type=positive, default=40, help="training movies (default: 40)")
    flags.add_argument("--num_test", type=positive, default=12, help="test movies (default: 12)")
    flags.add_argument("--actions", type=positive, default=12, help="of a movie (default: 12)")
    flags.add_argument("--features", type=positive, default=64, help="values of a window (default: 64)")
    flags.add_argument("--words", type=positive, default=96, help="values of a sentence (default: 96)")
    flags.add_argument("--seed", type=int, default=0, help="default: 0")
    args = flags.parse_args(argv)
    if args.actions > len(VERBS) * len(THINGS) // 2:
        flags.error(f"--actions={args.actions}: at most {len(VERBS) * len(THINGS) // 2}")
    made = make(args)
    print(f"{args.out}: {made} windows, {2 * args.actions} sentences a movie")
    return 0


def make(args: argparse.Namespace) -> int:
    """Write what is not there yet; the number of windows of the whole set."""
    out = Path(args.out)
    names = ("num_train", "num_test", "actions", "features", "words", "seed")
    outputs.claim(str(out), {"version": VERSION, **{name: getattr(args, name) for name in names}})
    rng = np.random.default_rng([args.seed, 0])
    patterns = {word: rng.normal(0, STRENGTH, args.features) for word in (*VERBS, *THINGS)}
    pairs = [(verb, thing) for verb in VERBS for thing in THINGS]
    new = {pairs[i] for i in rng.permutation(len(pairs))[: len(pairs) // 5]}  # in test movies alone
    count, lengths, told = 0, {}, {}
    for split, number in {"train": args.num_train, "test": args.num_test}.items():
        known = pairs if split == "test" else [pair for pair in pairs if pair not in new]
        told[split] = []
        for index in range(number):
            rng = np.random.default_rng([args.seed, 1 + ("train", "test").index(split), index])
            movie = f"{split}{index:03d}.avi"
            actions = [known[i] for i in rng.permutation(len(known))[: args.actions]]
            frames, spans = film(actions, patterns, rng)
            lengths[movie.removesuffix(".avi")] = len(frames)
            for (start, end), action in zip(spans, actions, strict=True):
                told[split].append((f"{movie}_{start}_{end}", [sentence(action, rng) for _ in range(2)]))
            count += write_windows(out / split, movie, frames, SIZES[split])
        write_sentences(out, split, told[split], args.words)
    files.write_atomic(out / "video_allframes_info.pkl", pickle.dumps(lengths, protocol=2))
    return count


def film(
    actions: list[tuple[str, str]], patterns: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Frames ``(T, D)`` of a movie, and start and end of each action; frames count from 1."""
    shown, spans, at = [], [], 1
    size = len(next(iter(patterns.values())))
    for verb, thing in actions:
        idle, length = int(rng.integers(0, IDLE + 1)), int(rng.integers(SHORTEST, LONGEST + 1))
        shown += [np.zeros((idle, size)), np.tile(patterns[verb] + patterns[thing], (length, 1))]
        spans.append((at + idle, at + idle + length))
        at += idle + length
    clean = np.concatenate([*shown, np.zeros((SHORTEST, size))])
    frames = clean + rng.normal(0, OF_MOVIE, size) + rng.normal(0, NOISE, clean.shape)
    return frames.astype(np.float32), spans


def sentence(action: tuple[str, str], rng: np.random.Generator) -> str:
    verb, thing = VERBS[action[0]], action[1]
    thing = f"the {thing}" if rng.random() < 0.5 else f"some {thing}s"
    return f"{PEOPLE[rng.integers(len(PEOPLE))]} {verb[rng.integers(len(verb))]} {thing}"


def write_windows(folder: Path, movie: str, frames: np.ndarray, sizes: tuple[int, ...]) -> int:
    """The means of sliding windows, as 2019 names them; how many there are."""
    sums = np.concatenate([np.zeros((1, frames.shape[1])), np.cumsum(frames, axis=0, dtype=np.float64)])
    count = 0
    for size in sizes:
        for start in range(1, len(frames) - size + 2, int(size * STEP)):
            path = folder / f"{movie}_{start}_{start + size}.npy"
            if not path.is_file():
                mean = (sums[start - 1 + size] - sums[start - 1]) / size
                write_array(path, mean.astype(np.float32))
            count += 1
    return count


def write_sentences(out: Path, split: str, told: list[tuple[str, list[str]]], size: int) -> None:
    entries = [[name, [bag_of_words(text, size) for text in texts]] for name, texts in told]
    files.write_atomic(out / f"{split}_clip-sentvec.pkl", pickle.dumps(entries, protocol=2))
    if split == "test":
        shown: list[dict[str, Any]] = []
        for (name, texts), (_, vectors) in zip(told, entries, strict=True):
            movie, start, end = name.rsplit("_", 2)
            for text, vector in zip(texts, vectors, strict=True):
                values = [round(float(value), 6) for value in vector]
                entry = {"video": movie, "start": int(start), "end": int(end), "text": text}
                shown.append({**entry, "vector": values})
        files.write_json(out / "test_sentences.json", shown)


if __name__ == "__main__":
    sys.exit(cli.run(main))
