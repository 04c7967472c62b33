"""`params.yaml` and what `--set` says over it -> a `Config`, or all errors at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from fmbseg.config.sections import Config
from fmbseg.documents import parse_yaml, read_yaml
from fmbseg.errors import ConfigError

_SHOWN = 80  # characters of a name or a value in a message


def load_config(path: Path | str | None = "params.yaml", overrides: Sequence[str] = ()) -> Config:
    """Read a params file and apply `section.key=value` overrides (values parsed as YAML).

    Args:
        path: None: no file, every parameter has its default.
        overrides: applied in order.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, a value is out of range.
            All errors are listed in the one message.
    """
    raw = {} if path is None else _read(Path(path))
    for override in overrides:
        _apply(raw, override)
    return parse_config(raw)


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """A configuration with `section.key=value` overrides applied, see `load_config`."""
    raw = config.model_dump(mode="json")
    for override in overrides:
        _apply(raw, override)
    return parse_config(raw)


def parse_config(raw: Mapping[str, Any]) -> Config:
    """Validate a nested mapping; raises ConfigError listing every error."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = [_describe(item) for item in error.errors()]
        raise ConfigError("; ".join(problems) + " (correct params.yaml or --set)") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: run inside the project or give --params FILE")
    raw = read_yaml(path, ConfigError)
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections (section: key: value)")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    keys = name.strip().split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise ConfigError(f"--set {override!r}: write it as section.key=value")
    node: dict[str, Any] = raw
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {key} is a value, not a section")
        node = child
    node[keys[-1]] = _value(keys, text, override)


def _value(keys: Sequence[str], text: str, override: str) -> Any:
    """The value of an override: text is taken as it is written where a text is wanted."""
    wanted = _types(keys)
    try:
        value = parse_yaml(text, f"--set {override!r}: the value", ConfigError)
    except ConfigError:
        if str in wanted:
            return text
        raise
    listed = isinstance(value, list) and tuple in {get_origin(each) for each in wanted}
    if str in wanted and not (
        isinstance(value, str) or listed or (value is None and None in wanted)
    ):
        return text
    return value


def _types(keys: Sequence[str]) -> set[Any]:
    """The types that the parameter at a path of keys may have; None stands for no value."""
    wanted: Any = Config
    for key in keys:
        if isinstance(wanted, type) and issubclass(wanted, BaseModel):
            field = wanted.model_fields.get(key)
            wanted = None if field is None else field.annotation
        elif get_origin(wanted) is dict:
            wanted = get_args(wanted)[1]
        else:
            return set()
    return {None if each is type(None) else each for each in get_args(wanted) or (wanted,)}


def _describe(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "params"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown parameter"
    message = str(item["msg"]).removeprefix("Value error, ")
    value = item.get("input")
    got = repr(value)[:_SHOWN] if isinstance(value, int | float | str | bool) else ""
    return f"{where[:_SHOWN]}: {message}" + (f" (got {got})" if got else "")
