"""Named errors. Each message says what is wrong and what to do, in one line.

The command line turns every `FmbsegError` into that one line on stderr and exit code 2.
"""

from __future__ import annotations

import errno
import unicodedata

# Disks, network file systems and sockets that may answer the next time. A missing file, missing
# rights and a full disk stay as they are.
_PASSING = {errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EINTR, errno.ESTALE, errno.ENOMEM}
_PASSING |= {errno.ENFILE, errno.EMFILE, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH}


class FmbsegError(Exception):
    """A user's mistake or a missing precondition; never a bug of this package."""


class ConfigError(FmbsegError):
    """A parameter is unknown, of the wrong type or out of range."""


class DataError(FmbsegError):
    """A data set, image or annotation is missing, broken or not as its layout demands."""


class VocabularyError(FmbsegError):
    """A class list is empty, ambiguous or holds a duplicate."""


class WeightsError(FmbsegError):
    """A model's weights are missing, damaged or of another architecture."""


class StoreError(FmbsegError):
    """A stage's stored result is missing or does not match its manifest."""


class CheckpointError(FmbsegError):
    """An alignment checkpoint is missing, damaged or of another format."""


def may_pass(error: object) -> bool:
    """Whether an error of a disk or a connection may be gone a little later.

    It says nothing of the file that was being read: nothing is to be removed or replaced for it.
    """
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING


def shown(name: object) -> str:
    """A name as text for a terminal, a page or a record.

    Bytes of another encoding and control characters, which a file's name may hold, are escaped.
    """
    return "".join(
        each.encode("unicode_escape").decode() if is_control(each) else each for each in str(name)
    )


def is_control(character: str) -> bool:
    """Whether a character steers a terminal or a line of text, or is a byte that is no UTF-8."""
    turns = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return turns or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def one_line(error: Exception) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
