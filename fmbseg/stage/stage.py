"""A stage at work: what it computes, in shards where several processes may share them out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fmbseg.data.manifest import ImageRecord
from fmbseg.stage.row import Row
from fmbseg.stage.workplace import Out
from fmbseg.store.shards import ShardedWork, ShardStore, StageReport

if TYPE_CHECKING:  # what asks a stage for its key needs no torch
    from fmbseg.machine.device import DeviceChoice


class Stage(Out, ABC):
    """One stage of the pipeline; a row of the table names its class."""

    @abstractmethod
    def run(self) -> StageReport:
        """Make the result; what is there already is taken over.

        Raises:
            FmbsegError: an input or the weights of a model are missing or damaged.
        """

    def shards(self) -> ShardedWork[Any] | None:
        """Its shards, which any process may compute; None: it has none to share out."""
        return None

    def summary(self) -> list[str]:
        """What the result that is there amounts to, in lines; none: there is nothing to say."""
        return []

    def track(self) -> None:
        """Log the result that is there, if it is not logged yet; computes nothing."""

    @cached_property
    def device(self) -> DeviceChoice:
        """Where it computes."""
        from fmbseg.machine.device import choose_device

        return choose_device(self.work.config.run)


class ShardedStage(Stage):
    """A stage that goes over the images of the section data, shard by shard."""

    @abstractmethod
    def process(self, records: Sequence[ImageRecord], directory: Path) -> None:
        """Write the result of some images into a folder."""

    def finish(self) -> None:
        """Called when all shards are there, before they are published."""

    @cached_property
    def store(self) -> ShardStore:
        """Where the shards go."""
        return ShardStore(self.work.paths.shards, self.row.name, self.key)

    def shards(self) -> ShardedWork[ImageRecord]:
        """See `Stage.shards`."""
        records, size = self.work.images.records, self.work.config.run.shard_size
        return ShardedWork(self.store, records, size, self.process)

    def run(self) -> StageReport:
        """See `Stage.run`; counts shards."""
        sharded = self.shards()
        if self.published:
            return StageReport(self.row.name, self.key, computed=0, taken_over=sharded.count)
        report = sharded.run(self.work.progress, self.work.attempt)
        self.finish()
        self.publish(sharded.count)
        return report

    def publish(self, count: int) -> None:
        """Merge the shards into the out."""
        self.store.publish(self.place, count=count, manifest=self.work.header())


def stage_class(row: Row) -> type[Stage]:
    """The class that a row names; only now it is imported, and torch with it."""
    module, _, name = row.stage.partition(":")
    found: type[Stage] = getattr(import_module(module), name)
    return found
