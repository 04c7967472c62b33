"""Digests of files and values, and the content key of a stage's result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def file_digest(path: Path | str) -> str:
    """The sha256 of a file's bytes, hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text.

    Raises:
        TypeError: the value holds something JSON has no form for.
        ValueError: the value holds NaN or infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def json_digest(value: Any) -> str:
    """The sha256 of a value's canonical JSON, hex; raises what `canonical_json` raises."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def content_key(
    stage: str,
    *,
    schema: int,
    params: Mapping[str, Any],
    inputs: Mapping[str, str],
    weights: Mapping[str, str],
    sources: Sequence[Path],
    threads: int,
) -> str:
    """The key of a stage's result: whatever can change a byte of the result changes the key.

    Args:
        stage: name of the stage.
        schema: version of the out's format.
        params: the slice of the configuration that the stage reads.
        inputs: digest of each input, by name.
        weights: digest of each model, its weights and its record, by name.
        sources: the source files that make the result; a folder stands for its `*.py` files.
        threads: sums differ between thread counts, so they are part of the key.

    Returns:
        sha256, hex.
    """
    return json_digest(
        {
            "stage": stage,
            "schema": schema,
            "params": dict(params),
            "inputs": dict(inputs),
            "weights": dict(weights),
            "sources": source_digests(sources),
            "threads": threads,
        }
    )


def source_digests(sources: Sequence[Path]) -> list[list[str]]:
    """Name and sha256 of each source file, sorted; a folder stands for its `*.py` files.

    Names without their folder: they are the same wherever the package is installed.
    """
    files = [
        file
        for source in sources
        for file in (source.rglob("*.py") if source.is_dir() else [source])
    ]
    return sorted([file.name, file_digest(file)] for file in files)
