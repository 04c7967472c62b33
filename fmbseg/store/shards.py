"""Content keys, atomic shards and published outs: the truth about what has been computed.

A stage splits its records into shards. A shard is written to a temporary folder, gets a
`digest.json` with every file's size and sha256, and is renamed to its final name: a name that
exists is a finished shard. Resuming after a kill is therefore "skip the shards that are there
and verify". At the end the shards are merged into the stage's out, `manifest.json` last.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from fmbseg.errors import StoreError
from fmbseg.machine.progress import Progress
from fmbseg.store import atomic
from fmbseg.store.digest import canonical_json, json_digest

T = TypeVar("T")
Attempt = Callable[[Callable[[], None]], None]
"""Calls what it is given; again, where that may help."""

DIGEST = "digest.json"
MANIFEST = "manifest.json"
_LAYOUT = "layout.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageReport:
    """What one run of a stage did; all zeros but `taken_over` when nothing had to be done.

    Attributes:
        stage: its name.
        key: the content key of the result.
        computed: shards (of a training: epochs) computed now.
        taken_over: those that were there.
        images: computed now; 0 for stages that do not go by images.
    """

    stage: str
    key: str
    computed: int
    taken_over: int
    images: int = field(default=0, compare=False)


class ShardStore:
    """The shards of one stage under one content key, in `root/stage/key`."""

    def __init__(self, root: Path, stage: str, key: str) -> None:
        self.stage = stage
        self.key = key
        self.directory = root / stage / key

    def shard_path(self, index: int) -> Path:
        """Folder of a shard; it exists only when the shard is finished."""
        return self.directory / f"{index:06d}"

    def has(self, index: int) -> bool:
        """Whether the shard is there and every file has its size and sha256.

        A damaged shard is removed with a warning and counts as absent.
        """
        path = self.shard_path(index)
        if not path.exists():
            return False
        damage = atomic.damage(path, DIGEST)
        if damage is None:
            return True
        _log.warning("%s: shard %d is damaged (%s); made again", self.stage, index, damage)
        shutil.rmtree(path)
        return False

    @contextmanager
    def write(self, index: int) -> Iterator[Path]:
        """A temporary folder that becomes the shard when the block ends without an error."""
        with atomic.temporary_directory(self.directory, f"{index:06d}") as temporary:
            yield temporary
            atomic.seal(temporary, DIGEST, {})
            try:
                os.rename(temporary, self.shard_path(index))
            except OSError:
                # The name is taken. Another worker was faster (under one key both hold the same
                # result), unless what is there is damaged: then `has` removes it.
                if not self.has(index):
                    os.rename(temporary, self.shard_path(index))

    def keep_layout(self, layout: Mapping[str, int]) -> None:
        """Remove shards that were cut differently: their numbers mean other records."""
        path = self.directory / _LAYOUT
        self.directory.mkdir(parents=True, exist_ok=True)
        wanted = canonical_json(layout)
        with atomic.lock(self.directory):  # of several workers one removes, before all compute
            if not path.exists() or path.read_bytes() != wanted.encode():
                for shard in self.directory.glob("[0-9]*"):
                    shutil.rmtree(shard)
                atomic.write_atomically(path, wanted.encode())

    def publish(
        self,
        destination: Path,
        *,
        count: int,
        manifest: Mapping[str, Any],
        key: str | None = None,
        amend: Callable[[Path], None] | None = None,
    ) -> None:
        """Merge shards 0..count-1 into `destination`, replacing it.

        `*.parquet` files of one name are concatenated in shard order; every other file is copied
        (not linked: a tool that edits the out in place must not reach the shard). `manifest` goes
        into `manifest.json` with stage, key, number of shards and every file's size and sha256.

        Args:
            destination: of the out.
            count: shards.
            manifest: what it is to say besides.
            key: of the out, where it is made of more than the shards; None: theirs.
            amend: called with the folder of merged shards before it is sealed.

        Raises:
            StoreError: a shard is missing, or two shards hold a file of the same name.
        """
        missing = [index for index in range(count) if not self.has(index)]
        if missing:
            raise StoreError(
                f"{self.stage}: {len(missing)} of {count} shards are missing: run the stage again"
            )
        atomic.remove_abandoned(destination.parent)
        with atomic.temporary_directory(destination.parent, destination.name) as temporary:
            tables: dict[Path, list[Path]] = {}
            for index in range(count):
                shard = self.shard_path(index)
                for name in atomic.contents(shard, DIGEST):
                    target = temporary / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if target.suffix == ".parquet":
                        tables.setdefault(target, []).append(shard / name)
                    elif target.exists():
                        raise StoreError(
                            f"{self.stage}: two shards hold {name}: image ids must be unique"
                        )
                    else:
                        shutil.copyfile(shard / name, target)
            for target, parts in tables.items():
                _concatenate(parts, target)
            if amend is not None:
                amend(temporary)
            header = {**manifest, "stage": self.stage, "key": key or self.key, "shards": count}
            atomic.seal(temporary, MANIFEST, header)
            atomic.replace_directory(temporary, destination)


def published_key(destination: Path) -> str | None:
    """The content key of a published out, or None when there is none that is sound."""
    key = (atomic.read_listing(destination, MANIFEST) or {}).get("key")
    return key if isinstance(key, str) else None


def published_digest(destination: Path) -> str:
    """Digest of what an out holds, whatever key it was made under.

    Raises:
        StoreError: there is none, or its manifest is damaged.
    """
    manifest = atomic.read_listing(destination, MANIFEST)
    if manifest is None:
        raise StoreError(f"{destination} has no manifest that is sound: make it again")
    return json_digest([manifest["files"], manifest.get("feature_shards")])


def published_files(destination: Path) -> dict[str, str] | None:
    """The sha256 of each file of an out, as it was published; none: there is no manifest.

    None: the manifest is damaged.
    """
    if not (destination / MANIFEST).exists():
        return {}
    manifest = atomic.read_listing(destination, MANIFEST)
    if manifest is None:
        return None
    return {name: entry["sha256"] for name, entry in manifest["files"].items()}


def verify_published(destination: Path) -> bool:
    """Whether every file of a published out has the size and sha256 of its manifest."""
    return atomic.damage(destination, MANIFEST) is None


def is_published(destination: Path, key: str) -> bool:
    """Whether the out is there under this key and undamaged; then nothing is to be computed."""
    return published_key(destination) == key and verify_published(destination)


def once(work: Callable[[], None]) -> None:
    """The `Attempt` that tries nothing again."""
    work()


@dataclass(frozen=True)
class ShardedWork(Generic[T]):
    """The work of a stage cut into shards, each of which any process may compute.

    Attributes:
        store: where the shards go.
        records: all records of the stage, in a fixed order.
        size: records a shard; batches never cross shards.
        process: writes the result of the given records into the given folder.
    """

    store: ShardStore
    records: Sequence[T]
    size: int
    process: Callable[[Sequence[T], Path], None]

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-len(self.records) // self.size)

    def part(self, index: int) -> Sequence[T]:
        """The records of a shard."""
        return self.records[index * self.size : (index + 1) * self.size]

    def prepare(self) -> None:
        """Remove shards that were cut differently, and what killed processes left behind."""
        self.store.keep_layout({"records": len(self.records), "shard_size": self.size})
        atomic.remove_abandoned(self.store.directory)

    def missing(self) -> list[int]:
        """Shards that are not there, or damaged; call `prepare` before."""
        return [index for index in range(self.count) if not self.store.has(index)]

    def compute(self, index: int) -> None:
        """Compute one shard."""
        with self.store.write(index) as directory:
            self.process(self.part(index), directory)

    def run(self, progress: Progress, attempt: Attempt = once) -> StageReport:
        """Compute the missing shards one after the other.

        Args:
            progress: advanced by records.
            attempt: called with the work of each shard.
        """
        self.prepare()
        computed = records = 0
        with progress.task(self.store.stage, len(self.records)) as task:
            for index in range(self.count):
                if not self.store.has(index):
                    attempt(partial(self.compute, index))
                    computed += 1
                    records += len(self.part(index))
                task.advance(len(self.part(index)))
        store = self.store
        return StageReport(store.stage, store.key, computed, self.count - computed, records)


def _concatenate(parts: Sequence[Path], target: Path) -> None:
    """Write parquet files one after the other, a shard in memory at a time."""
    # Here: who asks a trained head looks for outs, and has no parquet.
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(part) for part in parts]
    # Permissive: a column that is empty in one shard may have been written without its type.
    # The pandas metadata goes: it holds the row range of one shard.
    schema = pa.unify_schemas(
        [item.remove_metadata() for item in schemas], promote_options="permissive"
    )
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for part in parts:
            table = pq.read_table(part, partitioning=None)
            writer.write_table(
                pa.concat_tables([schema.empty_table(), table], promote_options="permissive")
                .select(schema.names)
                .cast(schema)
            )
