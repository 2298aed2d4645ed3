"""The captions of ActivityNet -> ETS's lists and its dictionary. No tokenizer checkout and no Java is needed.

    python data/dataset/ets/make_lists.py --train captions/train.json --val captions/val_1.json \\
        --out data/dataset/ets

A file holds {video: {"duration", "timestamps": [[start, end], …], "sentences": [str, …]}}. Writes
``train.list`` and ``val.list``, ``video <tab> start <tab> end <tab> sentence`` a line, ``infer.list``, which
is val.list without the sentences, and ``dict.txt``: <s>, <e>, <unk> and the words of train.list, the most
frequent first, each with its frequency. Sentences are split into words by ``utils/sentences.py``; scores are
computed from the same words. Published weights need the dictionary that they were trained with: put it there
and say ``--keep_dict``.

Segments whose features are not there (``--features``), or that have no word or no length, are left out, and
counted on the last lines.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser, positive
from metrics.caption_scores import read_references
from reader.ets_reader import SUFFIXES
from utils import cli, files
from utils.sentences import tokenize

SPECIAL = ("<s>", "<e>", "<unk>")


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--train", nargs="+", required=True, help="captions to train on: train.json")
    flags.add_argument("--val", nargs="+", default=[], help="captions to validate on: val_1.json …")
    flags.add_argument("--out", required=True, help="folder for the lists and the dictionary")
    flags.add_argument("--features", help="folder of feature files: leave out videos that have none")
    flags.add_argument(
        "--min_count", type=positive, default=1, help="rarer words are left out of the dictionary"
    )
    flags.add_argument("--keep_dict", action="store_true", help="leave an existing dict.txt as it is")
    args = flags.parse_args(argv)
    out = Path(args.out)
    for name, sources in (("train", args.train), ("val", args.val)):
        if not sources:
            continue
        lines = make_lines(sources, args.features)
        outputs.write_list(out / f"{name}.list", ["\t".join(line) for line in lines])
        print(f"{out / name}.list: {len(lines)} segments of {len({line[0] for line in lines})} videos")
        if name == "val":
            outputs.write_list(out / "infer.list", ["\t".join(line[:3]) for line in lines])
        elif not (args.keep_dict and (out / "dict.txt").is_file()):
            count = write_dictionary(out / "dict.txt", [line[3].split() for line in lines], args.min_count)
            print(f"{out / 'dict.txt'}: {count} words")
    return 0


def make_lines(sources: Sequence[str], features: str | None) -> list[tuple[str, str, str, str]]:
    """Video, start, end, sentence; raises DataError for a file of another form."""
    lines, left_out = [], Counter()
    for captions in read_references(sources):
        for video, entry in captions.items():
            has_features = features is None or any(
                (Path(features) / f"{video}{s}").is_file() for s in SUFFIXES
            )
            for (start, end), sentence in zip(entry["timestamps"], entry["sentences"], strict=True):
                words = tokenize(sentence)
                if not has_features:
                    left_out["without features"] += 1
                elif not words or end <= start:
                    left_out["without words" if not words else "without length"] += 1
                else:
                    lines.append((video, f"{start:g}", f"{end:g}", " ".join(words)))
    for reason, count in left_out.items():
        print(f"{', '.join(sources)}: {count} segments {reason} are left out")
    return lines


def write_dictionary(file: Path, sentences: Iterable[Sequence[str]], min_count: int = 1) -> int:
    """``dict.txt``: a word and its frequency a line; the number of words."""
    counts = Counter(word for words in sentences for word in words)
    kept = [word for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            if count >= min_count and word not in SPECIAL]  # fmt: skip
    lines = [f"{word} -1" for word in SPECIAL] + [f"{word} {counts[word]}" for word in kept]
    files.write_atomic(file, ("\n".join(lines) + "\n").encode())
    return len(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main))
