"""The words of a captioning model: ``dict.txt``, a word a line, whatever follows it (2019: its frequency)."""

from __future__ import annotations

import logging
from pathlib import Path

from utils.errors import ConfigError

log = logging.getLogger(__name__)


class Vocabulary:
    """Words by id: the place of a word among the distinct first words of the lines.

    Args:
        path: the file; blank lines are passed over.
        start, end, unknown: the words that stand for the beginning and the end of a sentence, and for every
            word that is not in the file.

    Raises ConfigError: the file cannot be read, or lacks one of the three.
    """

    def __init__(self, path: str, start: str = "<s>", end: str = "<e>", unknown: str = "<unk>") -> None:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text"
            raise ConfigError(f"{path}: cannot read the dictionary (MODEL.dict_file): {reason}") from error
        listed = [line.split()[0] for line in lines if line.strip()]
        self.words = list(dict.fromkeys(listed))
        self.ids = {word: i for i, word in enumerate(self.words)}
        if len(listed) > len(self.words):
            log.warning("%s: %d words stand there twice", path, len(listed) - len(self.words))
        for name, word in (("START", start), ("END", end), ("UNK", unknown)):
            if word not in self.ids:
                raise ConfigError(f"{path}: {word!r} (MODEL.{name}) is not among its {len(self)} words")
        self.start, self.end, self.unknown = self.ids[start], self.ids[end], self.ids[unknown]

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, sentence: str) -> list[int]:
        """Ids of the words between blanks, without start and end."""
        return [self.ids.get(word, self.unknown) for word in sentence.split()]

    def decode(self, ids: list[int]) -> str:
        """The words of ``ids`` up to the first end, without a start before them."""
        words = list(ids[1:] if ids and ids[0] == self.start else ids)
        if self.end in words:
            words = words[: words.index(self.end)]
        return " ".join(self.words[i] for i in words)
