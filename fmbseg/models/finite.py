"""Numbers that a model gives, looked at before an argmax makes a class of NaN."""

from __future__ import annotations

from torch import Tensor

from fmbseg.errors import ConfigError


def require_finite(found: Tensor, what: str, dtype: object) -> Tensor:
    """Hand back what a model gave, if all of it is finite.

    Args:
        found: of any shape, floating point.
        what: what messages call it.
        dtype: the precision it was computed in.

    Raises:
        ConfigError: a value is NaN or infinite.
    """
    if not bool(found.isfinite().all()):
        precision = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"{what} hold NaN or infinity (computed in {precision}): use --set run.dtype=float32, "
            "or other weights (`fmbseg models verify` looks at them)"
        )
    return found
