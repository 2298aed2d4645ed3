"""Errors that a user can mend: each is one line that says what, where, got, expected, what to do.

``utils.cli.run`` prints them on stderr and exits with status 2, without a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZooError(Exception):
    """Base of every error that is the user's to mend."""


class ConfigError(ZooError):
    """A YAML file, a flag or an ``-o`` override is wrong."""


class DataError(ZooError):
    """A file of the data set is missing, damaged or of another form than its reader needs."""


class UnsafeFileError(DataError):
    """A pickle wants to run code: refused."""


class WeightsError(ZooError):
    """A checkpoint or pretrained weights are missing, damaged, or do not fit the network."""


class OutputError(ZooError):
    """A result or a checkpoint cannot be written; what was there before is whole."""


class Interrupted(ZooError):
    """Ctrl-C or SIGTERM, after the checkpoint was written. ``exit_code`` is 128 + the signal."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def nearest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'num_classes'?" for a near miss of ``known``, else an empty string."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""
