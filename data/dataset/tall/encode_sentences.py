"""Sentences to vectors, for TALL: a text file in, a JSON file out that every mode of the reader takes.

    python data/dataset/tall/encode_sentences.py --sentences my.txt --out my.json --size 256
    python data/dataset/tall/encode_sentences.py --sentences my.txt --out my.json --model all-MiniLM-L6-v2

A line is ``movie<TAB>sentence`` or, with the moment in frames, ``movie<TAB>start<TAB>end<TAB>sentence``. The
movie is called as in the names of its windows: ``s13-d21.avi``.

Two encoders, both offline. Without ``--model`` a bag of words: each word has a fixed random vector, seeded by
the word itself, and the sentence is their sum, of length 1. It knows no synonyms and no order, but needs
nothing, and suits a small vocabulary that training covers. ``--model`` is the folder of a sentence encoder of
the BERT kind with mean pooling (``config.json``, ``model.safetensors``, ``tokenizer.json``); it needs the
package tokenizers. The vectors have as many values as the encoder gives: MODEL.sentence_embedding_size and
each mode's sent_vec_dim must say so. The weights published in 2019 need skip-thoughts, 4800 values.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common.convert import parser, positive
from data.dataset.tall import bert
from reader.common import filelist
from utils import cli, files
from utils.errors import ConfigError, DataError


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--sentences", required=True, help="text file, a sentence a line")
    flags.add_argument("--out", required=True, help="JSON file to write")
    flags.add_argument("--size", type=positive, help="values of a bag of words (default: 256)")
    flags.add_argument("--model", help="folder of an encoder, instead of a bag of words")
    args = flags.parse_args(argv)
    if args.model and args.size:
        raise ConfigError("--size is for a bag of words; the vectors of --model have their own")
    if not args.out.endswith(".json"):
        raise ConfigError(f"--out={args.out}: the reader knows the file by its ending, .json")
    entries = [parse(where, line) for where, line in filelist.read_lines(args.sentences)]
    encode: Callable[[str], np.ndarray] = (
        bert.Encoder(args.model) if args.model else lambda text: bag_of_words(text, args.size or 256)
    )
    for entry in entries:
        entry["vector"] = [round(float(value), 6) for value in encode(entry["text"])]
    files.write_json(args.out, entries)
    print(f"{args.out}: {len(entries)} sentences, vectors of {len(entries[0]['vector'])} values")
    return 0


def parse(where: str, line: str) -> dict[str, Any]:
    """A line as an entry without its vector. Raises DataError."""
    parts = [part.strip() for part in line.split("\t")]
    if len(parts) not in (2, 4) or not all(parts):
        raise DataError(f"{where}: expected movie<TAB>sentence or movie<TAB>start<TAB>end<TAB>sentence")
    entry: dict[str, Any] = {"video": parts[0], "text": parts[-1]}
    if len(parts) == 4:
        try:
            entry["start"], entry["end"] = float(parts[1]), float(parts[2])
        except ValueError:
            raise DataError(f"{where}: start and end are frames, got {parts[1]!r} and {parts[2]!r}") from None
    return entry


def bag_of_words(text: str, size: int) -> np.ndarray:
    """``(size,)`` float32 of length 1; zeros for a text without a word."""
    words = re.findall(r"\w+", text.lower())
    total = np.zeros(size)
    for word in words:
        total += np.random.RandomState(zlib.crc32(word.encode("utf-8"))).standard_normal(size)
    return (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)


if __name__ == "__main__":
    sys.exit(cli.run(main))
