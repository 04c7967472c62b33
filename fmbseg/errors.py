"""Named errors. Each message says what is wrong and what to do, in one line.

The command line turns every `FmbsegError` into that one line on stderr and exit code 2.
"""

from __future__ import annotations

import errno
import re
import unicodedata

# Disks, network file systems and sockets that may answer the next time. A missing file, missing
# rights and a full disk stay as they are.
_PASSING = {errno.EAGAIN, errno.EBUSY, errno.EIO, errno.EINTR, errno.ESTALE, errno.ENOMEM}
_PASSING |= {errno.ENFILE, errno.EMFILE, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH}


# What numpy says, without a number, of an array that it could not write whole.
_CUT_OFF = " requested and "
# What torch and numpy say of memory that they could not get.
_NO_MEMORY: tuple[str, ...] = (
    "can't allocate memory",
    "Unable to allocate",
    "out of memory",
    "bad_alloc",
    "failed to map segment",  # of a library that was to be loaded
)


# All that `is_control` may be true of, but line feeds and tabs.
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+@", re.IGNORECASE)


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


def machine_limit(error: BaseException) -> str | None:
    """Which limit of the machine an error speaks of, and what to do; None: it is another error.

    Libraries say so in errors of their own: safetensors and parquet of a full disk, torch of
    memory that it could not get.
    """
    text, number = str(error), getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return "the disk is full: make room, and run it again; what is finished is kept"
    if number == errno.EFBIG or "File too large" in text:
        return "a file would be larger than this system allows (ulimit -f): raise it, run it again"
    if _CUT_OFF in text and text.endswith(" written"):
        return (
            "a file could not be written whole: the disk is full, or the file larger than this "
            "system allows (ulimit -f): see to it, and run it again; what is finished is kept"
        )
    memory = isinstance(error, MemoryError) or any(each in text for each in _NO_MEMORY)
    if memory:
        return (
            "there is not enough memory: lower the batch_size of the stage's section or the size "
            "of the pictures, and run it again; what is finished is kept"
        )
    return None


def shown(name: object) -> str:
    """A name as text for a terminal, a page or a record.

    Bytes of another encoding and control characters, which a file's name may hold, are escaped.
    """
    text = str(name)
    if text.isprintable():  # no character is one that `is_control` knows; nearly all names are so
        return text
    return "".join(
        each.encode("unicode_escape").decode() if is_control(each) else each for each in text
    )


def is_control(character: str) -> bool:
    """Whether a character steers a terminal or a line of text, or is a byte that is no UTF-8."""
    turns = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return turns or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def plain(text: str) -> str:
    """Text of several lines for a terminal, a log or a page, where no name steers what shows it.

    As `shown`, but for line feeds and tabs; and without passwords in addresses.
    """
    return without_passwords(_STEERS.sub(lambda found: shown(found[0]), text))


def without_passwords(text: str) -> str:
    """A text in whose addresses (`http://user:password@host`) nobody's password stands."""
    return _PASSWORD.sub(r"\1***@", text)


def one_line(error: Exception | str) -> str:
    """What an error says, in one line that steers nothing; its type where it says nothing."""
    text = without_passwords(shown(" ".join(str(error).split())))
    return text or type(error).__name__
