"""`fmbseg evaluate`: one method on one benchmark, wherever it lies."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fmbseg.commands.options import DEFAULT_PARAMS, Checkpoint, Overrides, Params, lenient_config
from fmbseg.paths import Paths


class Method(StrEnum):
    """What can be scored."""

    FMBSEG = "fmbseg"
    MASKCLIP = "maskclip"
    PSEUDO = "pseudo"
    ORACLE = "oracle"
