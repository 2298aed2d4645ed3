"""Words of an English sentence, near enough to the Penn Treebank's rules that captions are scored by.

Lower case; punctuation goes; ``don't`` is ``do n't``, ``man's`` is ``man 's``, ``cannot`` is ``can not``;
``t-shirt``, ``3.5`` and ``o'clock`` stay whole.
"""

from __future__ import annotations

import re

_APART = re.compile(r"(?<=\w)(n't|'(?:s|m|d|ll|re|ve))\b")
_TWO_WORDS = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(gim|lem)(me)\b")
_WORD = re.compile(r"n't\b|'(?:s|m|d|ll|re|ve)\b|\d+(?:[.,:]\d+)+|\w+(?:[-/']\w+)*|[$%&#@+=]")


def tokenize(text: str) -> list[str]:
    text = text.lower().replace("\u2019", "'")
    text = _APART.sub(r" \1", text)
    text = _TWO_WORDS.sub(lambda match: " ".join(part for part in match.groups() if part), text)
    return _WORD.findall(text)
