"""How a call asks a trained head: as its checkpoint says, but for what the call itself names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fmbseg.config import Config

_log = logging.getLogger(__name__)


def ask_as_trained(config: Config, checkpoint: Path, overrides: Sequence[str]) -> Config:
    """A configuration with the head's own protocol and background rule.

    Where the file of parameters has others, because they were changed after the training or because
    it is another project's head, one line says so.

    Args:
        config: with the overrides applied.
        checkpoint: folder of the head.
        overrides: `section.key=value`; what they name holds.

    Raises:
        CheckpointError: the head is missing or damaged.
    """
    from fmbseg.align.checkpoint import load_record

    own, section = load_record(checkpoint).info.inference, config.evaluate
    named = overridden(overrides)
    kept = [name for name in own.differences(section) if f"evaluate.{name}" not in named]
    if written := [name for name in kept if name in section.model_fields_set]:
        _log.warning(
            "%s is asked with its own %s, not with %s: --set changes that",
            checkpoint,
            own.said(written),
            section.said(written),
        )
    changed = section.model_copy(update={name: getattr(own, name) for name in kept})
    return config.model_copy(update={"evaluate": changed})


def overridden(overrides: Sequence[str]) -> set[str]:
    """The parameters that `section.key=value` overrides name."""
    return {override.partition("=")[0].strip() for override in overrides}
