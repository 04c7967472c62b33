"""Tables of ablations: written when a study has ended, shown by `fmbseg report`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmbseg.config import Config
from fmbseg.documents import read_json
from fmbseg.errors import DataError
from fmbseg.params import LOCAL
from fmbseg.report.content import Table
from fmbseg.stage.depends import flat_params, within
from fmbseg.store.atomic import write_atomically
from fmbseg.store.digest import json_digest
from fmbseg.store.paths import Paths

VARIANT = "variant"


@dataclass(frozen=True)
class Ablation:
    """One study.

    Attributes:
        title: what is varied.
        table: mIoU of each variant, a row each.
        current: whether all the other parameters are those of now.
    """

    title: str
    table: Table
    current: bool


def write_ablation(
    paths: Paths, study: str, about: str, config: Config, rows: Sequence[Mapping[str, object]]
) -> None:
    """Keep the table of a study; an earlier one is replaced.

    Args:
        paths: the workspace.
        study: its name.
        about: what is varied.
        config: what all variants have in common.
        rows: of each variant its name (`variant`) and mIoU in percent by benchmark.
    """
    content = {"about": about, "params": _digest(config), "rows": [dict(row) for row in rows]}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_atomically(paths.ablation_tables / f"{study}.json", text.encode())


def read_ablations(paths: Paths, config: Config) -> tuple[Ablation, ...]:
    """The tables that are there, by name.

    Raises:
        DataError: one is damaged.
    """
    return tuple(_read(path, config) for path in sorted(paths.ablation_tables.glob("*.json")))


def _read(path: Path, config: Config) -> Ablation:
    content, body = read_json(path, DataError), []
    try:
        benchmarks = [name for name in content["rows"][0] if name != VARIANT]
        for row in content["rows"]:
            values = [float(row[name]) for name in benchmarks]
            mean = sum(values) / max(1, len(values))
            body.append((str(row[VARIANT]), *(f"{value:.1f}" for value in (*values, mean))))
        about, params = str(content["about"]), content["params"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no table of an ablation: remove it") from error
    table = Table((VARIANT, *benchmarks, "mean"), tuple(body))
    return Ablation(about, table, params == _digest(config))


def _digest(config: Config) -> str:
    params = flat_params(config, Config.model_fields)
    return json_digest({name: v for name, v in params.items() if not within(name, LOCAL)})
