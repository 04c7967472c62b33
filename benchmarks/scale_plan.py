"""What a run of many pictures takes: `python -m benchmarks.scale_plan --images 118287 [...]`.

Hours, money, disk and network of each stage by formulas alone, out of pictures a second that you
have measured (`--throughput masks=3.2,...`, of one worker; `fmbseg run STAGE` shows them) or, for
what is not given, those of docs/scale.md: the tiny models on two busy CPU cores. Nothing is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# Pictures a second of a worker that has loaded its models: tiny models, two threads, the median of
# the shards of `make demo`; align: in one epoch.
MEASURED = {
    "detect": 14.2,
    "query": 8.2,
    "masks": 4.6,
    "label": 22.1,
    "features": 22.9,
    "align": 28.1,
}
SHARED_OUT = ("detect", "query", "masks", "label", "features")
SYNC = 0.0025  # seconds to bring a file to disk, measured on a shared virtual disk
HOUR = 3600.0


@dataclass(frozen=True)
class Plan:
    """What is to be computed, and what it is computed with.

    Attributes:
        images: how many.
        throughput: pictures a second of one worker, by stage; of align in one epoch.
        workers: that shards are handed out to; align runs on one.
        utilisation: share of their time in which workers compute what is kept
            (`python -m benchmarks.workers`).
        price: of a worker's hour.
        epochs: of align.
        vocabularies: of the training.
        shard_size: pictures a shard.
        patches: of a picture, h x w.
        channels: C of a patch's feature.
        code: bytes of a patch's feature; None: 2 C, float16.
        picture_kb: a picture's file.
        label_kb: a label map.
        tables_kb: rows of a picture in the tables of detect, query, masks and label.
    """

    images: int
    throughput: Mapping[str, float] = field(default_factory=lambda: MEASURED)
    workers: int = 1
    utilisation: float = 0.9
    price: float = 0.0
    epochs: int = 18
    vocabularies: int = 1
    shard_size: int = 64
    patches: int = 1376
    channels: int = 768
    code: int | None = None
    picture_kb: float = 160.0
    label_kb: float = 4.0
    tables_kb: float = 20.0

    def worker_hours(self, stage: str) -> float:
        """Hours of one worker that does it alone; of align all epochs."""
        times = self.epochs if stage == "align" else 1
        return times * self.images / self.throughput[stage] / HOUR

    def hours(self, stage: str) -> float:
        """Hours until it is done: on all workers, but for align."""
        if stage not in SHARED_OUT:
            return self.worker_hours(stage)
        # No more workers than shards have anything to do.
        useful = min(self.workers, -(-self.images // self.shard_size))
        return self.worker_hours(stage) / (useful if useful == 1 else useful * self.utilisation)

    def cost(self, stage: str) -> float:
        """Price of the hours, of all workers that are kept for it."""
        workers = self.workers if stage in SHARED_OUT else 1
        return self.hours(stage) * workers * self.price

    @property
    def feature_bytes(self) -> float:
        """Of all patches: pictures x patches x bytes a patch."""
        return float(self.images) * self.patches * (self.code or 2 * self.channels)

    def disk(self) -> dict[str, tuple[float, float]]:
        """Files and bytes, by what they are."""
        shards = -(-self.images // self.shard_size)
        maps = self.images * self.vocabularies
        label_bytes = maps * self.label_kb * 1e3
        return {
            "pictures": (self.images, self.images * self.picture_kb * 1e3),
            "label maps, one PNG each": (maps, label_bytes),
            "label maps, `run.pack_labels`": (
                self.vocabularies * (1 + self.images / 256),
                label_bytes,
            ),
            "tables of stage 1": (5, self.images * self.tables_kb * 1e3),
            "shards of stage 1": (
                shards * (9 + self.vocabularies),
                label_bytes + self.images * self.tables_kb * 1e3,
            ),
            "features": (3 * shards, self.feature_bytes),
        }

    def network(self) -> dict[str, float]:
        """Bytes that workers without a shared disk fetch and push, by what they are."""
        disk = {name: size for name, (_, size) in self.disk().items()}
        return {
            # Each worker has all pictures, and fetches the outs that a stage reads.
            "pictures to each worker": self.workers * disk["pictures"],
            "tables to each worker": self.workers * disk["tables of stage 1"],
            "shards pushed and pulled": 2 * disk["shards of stage 1"],
            "features pushed and pulled": 2 * disk["features"],
            "features read in all epochs": self.epochs * disk["features"],
        }

    def one_by_one(self) -> dict[str, float]:
        """Seconds that one process takes alone, whatever the number of workers."""
        maps = self.images * self.vocabularies
        return {
            "publish label maps, one PNG each": maps * SYNC,
            "publish label maps in packs": self.vocabularies * (1 + self.images / 256) * SYNC,
        }

    @property
    def label_memory(self) -> float:
        """Bytes of all patch labels, which align keeps: one a patch and vocabulary."""
        return float(self.images) * self.patches * self.vocabularies


def tables(plan: Plan) -> Iterator[str]:
    """The plan in Markdown."""
    yield "| stage | pictures/s of a worker | worker-hours | hours | cost |"
    yield "|---|---:|---:|---:|---:|"
    for stage in (*SHARED_OUT, "align"):
        yield (
            f"| {stage} | {plan.throughput[stage]:g} | {plan.worker_hours(stage):,.1f} | "
            f"{plan.hours(stage):,.2f} | {plan.cost(stage):,.2f} |"
        )
    stages = (*SHARED_OUT, "align")
    total = [sum(map(each, stages)) for each in (plan.worker_hours, plan.hours, plan.cost)]
    yield f"| all | | {total[0]:,.1f} | {total[1]:,.2f} | {total[2]:,.2f} |"
    yield "\n| disk | files | GB |\n|---|---:|---:|"
    for name, (files, size) in plan.disk().items():
        yield f"| {name} | {files:,.0f} | {size / 1e9:,.1f} |"
    yield "\n| network or disk traffic | GB |\n|---|---:|"
    for name, size in plan.network().items():
        yield f"| {name} | {size / 1e9:,.1f} |"
    yield "\n| one after the other | minutes |\n|---|---:|"
    for name, seconds in plan.one_by_one().items():
        yield f"| {name} | {seconds / 60:,.1f} |"
    yield f"\nPatch labels in align's memory: {plan.label_memory / 1e9:,.2f} GB"


def throughputs(text: str) -> dict[str, float]:
    """`masks=3.2,align=28` over `MEASURED`.

    Raises:
        ValueError: no such stage, or a number that is not above 0.
    """
    found = dict(MEASURED)
    for part in filter(None, text.split(",")):
        stage, _, value = part.partition("=")
        if stage not in MEASURED:
            raise ValueError(f"{stage!r} is no stage: use {', '.join(MEASURED)}")
        try:
            found[stage] = float(value)
        except ValueError:
            found[stage] = 0.0
        if not found[stage] > 0:
            raise ValueError(f"{part!r}: give pictures a second above 0, such as masks=3.2")
    return found


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    default = Plan(1)
    parser.add_argument("--images", type=int, default=118_287, metavar="N")
    parser.add_argument("--throughput", default="", metavar="STAGE=X,...")
    for name, unit in (
        ("workers", "N"),
        ("utilisation", "0..1"),
        ("price", "AN HOUR"),
        ("epochs", "N"),
        ("vocabularies", "N"),
        ("shard_size", "N"),
        ("patches", "N"),
        ("channels", "N"),
        ("picture_kb", "KB"),
        ("label_kb", "KB"),
        ("tables_kb", "KB"),
    ):
        value = getattr(default, name)
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(value), default=value, metavar=unit)
    parser.add_argument("--code", type=int, metavar="BYTES", help="a patch's; none: float16")
    given = vars(parser.parse_args())
    try:
        given["throughput"] = throughputs(given["throughput"])
    except ValueError as error:
        parser.error(str(error))
    for name in ("images", "workers", "utilisation", "shard_size"):
        if not given[name] > 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    print("\n".join(tables(Plan(**given))))


if __name__ == "__main__":
    main()
