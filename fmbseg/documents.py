"""YAML and JSON that others wrote, read within limits: length, depth, aliases.

Whatever a parser raises on such a text becomes one line of a named error. Dates stay text: a folder
may be called 2024-11-27.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from fmbseg.errors import FmbsegError, shown

_LARGEST = 64_000_000  # bytes of a file; reading more is no work of seconds
_LARGEST_YAML = 1_000_000
_DEEPEST = 32
_MOST_ALIASES = 16  # each may double what the text stands for


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, name: object, error: type[FmbsegError]) -> Any:
    """What a YAML text says.

    Args:
        text: of one document.
        name: what messages call it.
        error: is raised.

    Raises:
        FmbsegError: `error`; it is no YAML, too long, too deep, or holds more than a few aliases.
    """
    try:
        if len(text) > _LARGEST_YAML:
            raise ValueError(f"more than {_LARGEST_YAML // 1000} kB")
        _refuse_excess(text)
        return yaml.load(text, _Loader)
    except Exception as reason:  # a parser raises anything on odd numbers, tags and keys
        raise _unread(name, "YAML", reason, error) from reason


def read_yaml(path: Path, error: type[FmbsegError]) -> Any:
    """What a YAML file says; raises `error` as `parse_yaml`, and where it cannot be read."""
    return parse_yaml(_read(path, "YAML", error), path, error)


def parse_json(text: str, name: object, error: type[FmbsegError]) -> Any:
    """What a JSON text says; raises `error` where it is none, too deep, or has odd numbers.

    NaN and infinity are no JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as reason:
        raise _unread(name, "JSON", reason, error) from reason


def read_json(path: Path, error: type[FmbsegError], largest: int = _LARGEST) -> Any:
    """What a JSON file says; raises `error` as `parse_json`, and where it cannot be read.

    Args:
        path: of the file.
        error: is raised.
        largest: bytes that it may have.
    """
    return parse_json(_read(path, "JSON", error, largest), path, error)


def read_regular(path: Path, largest: int) -> bytes:
    """The content of a regular file, of which no more than `largest` + 1 bytes are read.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a pipe, a device or the like, which may never end.
    """
    # A pipe without a writer would be waited for.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise ValueError("no regular file")
        return stream.read(largest + 1)


def _read(path: Path, kind: str, error: type[FmbsegError], largest: int = _LARGEST) -> str:
    try:
        data = read_regular(path, largest)
        if len(data) > largest:
            raise ValueError(f"more than {largest // 1_000_000} MB")
        return data.decode("utf-8-sig")
    except FileNotFoundError as reason:
        raise error(f"{shown(path)} does not exist") from reason
    except OSError as reason:
        raise error(f"{shown(path)} cannot be read ({reason.strerror})") from reason
    except ValueError as reason:
        raise _unread(path, kind, reason, error) from reason


def _refuse_excess(text: str) -> None:
    depth = aliases = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        if depth > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} levels")
        if aliases > _MOST_ALIASES:
            raise ValueError(f"more than {_MOST_ALIASES} aliases")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _unread(name: object, kind: str, reason: Exception, error: type[FmbsegError]) -> FmbsegError:
    text = " ".join(str(reason).split()) or type(reason).__name__
    return error(f"{shown(name)} is not valid {kind}: {shown(text[:300])}")
