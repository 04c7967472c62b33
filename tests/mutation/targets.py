"""What is mutated, and the tests that must notice: those of the module itself, and fast ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A file to mutate.

    Attributes:
        part: of the project, which the share of killed mutants is taken over.
        file: below the project's folder.
        tests: files of tests.
        only: names of the functions and classes in it that are mutated; none: all.
    """

    part: str
    file: str
    tests: tuple[str, ...]
    only: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """As it is imported."""
        return self.file.removesuffix(".py").replace("/", ".")


_IMPORT = ("tests/corrections/test_import.py", "tests/corrections/test_target.py")
_CODECS = ("tests/corrections/test_codecs.py", *_IMPORT)

TARGETS: Sequence[Target] = (
    *(
        Target("losses", f"fmbseg/align/{name}.py", ("tests/align/test_losses.py",))
        for name in ("losses", "labelled", "blockwise")
    ),
    Target("metrics", "fmbseg/evaluate/metrics.py", ("tests/evaluate/test_metrics.py",)),
    Target(
        "store",
        "fmbseg/store/atomic.py",
        ("tests/store/test_atomic.py", "tests/store/test_seal.py"),
    ),
    Target("store", "fmbseg/store/digest.py", ("tests/store/test_digest.py",)),
    Target("store", "fmbseg/store/ledger.py", ("tests/store/test_ledger.py",)),
    Target("store", "fmbseg/store/shards.py", ("tests/store/test_shards.py",)),
    Target(
        "composition",
        "fmbseg/pseudo/pipeline.py",
        ("tests/pseudo/test_labels.py",),
        ("compose", "painting"),
    ),
    Target("composition", "fmbseg/pseudo/merging.py", ("tests/pseudo/test_merging.py",)),
    Target("corrections", "fmbseg/corrections/coco.py", _CODECS),
    Target("corrections", "fmbseg/corrections/cvat.py", _IMPORT),
    Target("corrections", "fmbseg/corrections/label_maps.py", _IMPORT),
    Target("corrections", "fmbseg/corrections/label_studio.py", _IMPORT),
    Target("corrections", "fmbseg/corrections/store.py", _IMPORT),
    Target("corrections", "fmbseg/corrections/target.py", _IMPORT),
    Target("corrections", "fmbseg/export/brush.py", _CODECS),
)
