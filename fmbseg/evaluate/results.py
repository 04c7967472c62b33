"""Result files: `metrics/<method>/<benchmark>.json`. Light to import, for tables and reports."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fmbseg.align.record import recorded_sha256
from fmbseg.errors import DataError
from fmbseg.evaluate.methods import METHODS
from fmbseg.store.atomic import write_atomically
from fmbseg.store.digest import json_digest
from fmbseg.store.paths import Paths

OWN_WORDS = "the benchmark's own"
"""What a result's protocol says of its vocabulary unless other words were asked with."""

EXAMPLES = "examples"
"""Field of a result file: names of pictures that say how well it went; see `chosen_examples`."""
LOOKED_AT = 24
"""Of so many pictures, the first ones, the examples are chosen."""

Result = dict[str, Any]

DIGEST = "digest"
"""Field of a result file: sha256 of the others' canonical JSON, so that damage shows."""


def write_result(result: Result, path: Path) -> None:
    """Write a result as JSON, whole or not at all; missing folders are made."""
    write_atomically(path, result_bytes(result))


def result_bytes(result: Result) -> bytes:
    """A result file's content, UTF-8; raises ValueError for a number JSON has no form for."""
    own = {name: value for name, value in result.items() if name != DIGEST}
    sealed = {**own, DIGEST: json_digest(own)}
    return (json.dumps(sealed, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_result(path: Path) -> Result:
    """Read what `write_result` wrote; a result of another program needs no digest.

    Raises:
        DataError: the file is missing, damaged or no result.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: run `fmbseg run evaluate`") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: remove it and score again") from error
    if not isinstance(result, dict) or not {"benchmark", "method", "miou"} <= set(result):
        raise DataError(f"{path} is no result of a benchmark: remove it from this folder")
    digest = result.pop(DIGEST, None)
    # Those of the pipeline have a key, and so a digest; one without both is another program's.
    if (digest is not None or "key" in result) and digest != json_digest(result):
        raise DataError(f"{path} has changed since it was written: remove it and score again")
    return result


def chosen_examples(image_ids: Sequence[str], own: Sequence[float]) -> list[str]:
    """The best, the median and the worst of the first pictures, each once.

    Args:
        image_ids: of the scored pictures, in order.
        own: mIoU of each by itself; NaN: no pixel of it is scored, so it says nothing.

    Returns:
        One to three names; where all pictures are like that, the first one.
    """
    first = [*zip(own, image_ids, strict=True)][:LOOKED_AT]
    ranked = sorted((each for each in first if not math.isnan(each[0])), key=lambda each: -each[0])
    names = [name for _, name in ranked] or [*image_ids[:1]]
    return [names[index] for index in dict.fromkeys((0, len(names) // 2, len(names) - 1))]


def read_results(metrics: Path) -> list[Result]:
    """All results below a metrics folder, by method and benchmark.

    Raises:
        DataError: a file in it is damaged or no result.
    """
    return [read_result(path) for path in sorted(metrics.glob("*/*.json"))]


def current_results(metrics: Path) -> list[Result]:
    """Those of `read_results` that are not of an earlier head; see `is_of_another_head`."""
    return [each for each in read_results(metrics) if not is_of_another_head(each, metrics)]


def is_of_another_head(result: Result, metrics: Path) -> bool:
    """Whether a method's head has been trained anew since a result was made.

    Where no head lies in the workspace, nothing is known and nothing is said.

    Args:
        result: of any method.
        metrics: the folder of the results, which lies in the workspace.
    """
    method = METHODS.get(str(result["method"]))
    if method is None:
        return False
    paths = Paths(metrics.parent)
    folder = method.head_folder(paths) or method.made_folder(paths)
    if folder is None:
        return False
    present = recorded_sha256(folder)
    return present is not None and result.get("checkpoint_sha256") != present
