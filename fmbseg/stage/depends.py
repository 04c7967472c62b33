"""What a result depends on, declared once, and the content key that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fmbseg.config import Config, InferenceSection
from fmbseg.models.weights import model_digest
from fmbseg.store.digest import file_digest, json_digest

PACKAGE = Path(__file__).parents[1]
MODELS = ("clip.model", "sam.model", "features.encoder")
"""Parameters that name a model; in a key stands the digest of its weights and its record."""

# Where data lie. What lies there is in a key by its content, as an input.
_PLACES = ("data", "evaluate.benchmarks")
# What a folder of sources stands for: code, and the records of architectures. YAML files are data
# whose content is in the key itself (words, records of models); weights have digests of their own.
_SOURCES = ("*.py", "*.json", "*.gz")


@dataclass(frozen=True)
class Depends:
    """What a result depends on, besides the content of its inputs.

    Attributes:
        params: `section` or `section.key` of params.yaml.
        sources: folders and files of the package, or patterns of files, relative to it.
        libraries: distributions whose next version may give other bytes.
    """

    params: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()

    def __add__(self, other: Depends) -> Depends:
        """Both together, each entry once."""
        both = zip(astuple(self), astuple(other), strict=True)
        return Depends(*(tuple(dict.fromkeys((*first, *second))) for first, second in both))


# What several results depend on in common; rows and methods add their own.
RUN = Depends(params=("run.dtype", "run.threads"))  # sums depend on both
READING = Depends((), ("data",), ("numpy", "opencv-python-headless", "pillow"))
NETWORKS = Depends((), ("models",), ("torch",))
TEXT = Depends(("clip.model", "clip.templates"), (), ("open_clip_torch",))
CLIP = Depends(("clip",), (), ("open_clip_torch",))
SAM = Depends(("sam",), (), ("segment-anything", "torchvision"))
INFERENCE = Depends(tuple(f"evaluate.{name}" for name in InferenceSection.model_fields))
"""How what compares patches with words is asked; a head is published with it."""
SCORING = (
    READING
    + NETWORKS
    + Depends(("evaluate.batch_size",), ("evaluate", "inference"), TEXT.libraries)
    + RUN
)
"""What every score depends on, besides the images; a method adds its own."""


def content_key(name: str, depends: Depends, config: Config, inputs: Mapping[str, Any]) -> str:
    """The key of a result: whatever can change a byte of it changes the key.

    Device and precision are not resolved (`run.dtype` counts as it is written): a result that was
    made elsewhere is taken as it is.

    Args:
        name: of the stage or the method.
        depends: what it depends on.
        config: whose parameters count.
        inputs: JSON values that tell one input from another, by name: digests of their content.

    Returns:
        sha256, hex.

    Raises:
        WeightsError: the weights of a model are missing.
    """
    params = {
        key: model_digest(value) if key in MODELS else value
        for key, value in flat_params(config, depends.params).items()
        if not within(key, _PLACES)
    }
    return json_digest(
        {
            "name": name,
            "params": params,
            "inputs": dict(inputs),
            "sources": source_digests(depends.sources),
            "libraries": library_versions(depends.libraries),
        }
    )


def flat_params(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """`section.key` -> value, JSON, of the parameters below the given names; None: not there."""
    flat: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(f"{name}.{key}", inner)
        else:
            flat[name] = value

    content = config.model_dump(mode="json")
    for name in names:
        value: Any = content
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        walk(name, value)
    return flat


def within(name: str, places: Sequence[str]) -> bool:
    """Whether a parameter is one of the given names or below one of them."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


@cache
def source_digests(sources: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Path in the package and sha256 of each source file, sorted; see `Depends.sources`.

    As this process first saw them: it has imported them, whatever becomes of the files.
    """
    files: set[Path] = set()
    for source in sources:
        place = PACKAGE / source
        patterns = _SOURCES if place.is_dir() else ()
        files.update(path for pattern in patterns for path in place.rglob(pattern))
        files.update(path for path in PACKAGE.glob(source) if path.is_file())
    named = sorted((path.relative_to(PACKAGE).as_posix(), path) for path in files)
    return tuple((name, file_digest(path)) for name, path in named)


def library_versions(libraries: Iterable[str]) -> dict[str, str]:
    """The installed version of each distribution."""
    return {library: _version(library) for library in libraries}


@cache
def _version(library: str) -> str:
    try:
        # Without `+cpu`: builds of one version are taken for the same.
        return version(library).partition("+")[0]
    except PackageNotFoundError:
        return "absent"  # an extra; who needs it says so
