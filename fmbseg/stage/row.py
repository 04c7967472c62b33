"""A row of the stage table."""

from __future__ import annotations

from dataclasses import dataclass

from fmbseg.stage.depends import Depends

IMAGES = "images"
WORDS = "words"
TRUTH = "truth"
BENCHMARK = "benchmark"
CORRECTIONS = "corrections"
LABEL = "label"
"""The stage whose out `data.labels` takes the place of."""


@dataclass(frozen=True)
class Row:
    """One stage of the pipeline, without a line of what it does.

    Attributes:
        name: as in `fmbseg run NAME` and in dvc.yaml.
        summary: one line.
        stage: the class that does it, `module:Class`; imported when it runs.
        depends: what its result depends on, besides its inputs.
        inputs: what it reads: `images`, `words` and `truth` of the section data, the `benchmark`
            it scores, people's `corrections`, and earlier stages by name.
        outputs: what it makes, relative to the workspace; the out that later stages read first.
            `${key}` is the benchmark.
        metrics: those of its outputs that are results in JSON.
        each_benchmark: whether it runs once a benchmark.
        methods: what it scores.
        on_request: what only peers need: `fmbseg run NAME` makes it, the whole pipeline does not.
    """

    name: str
    summary: str
    stage: str
    depends: Depends
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    each_benchmark: bool = False
    methods: tuple[str, ...] = ()
    on_request: bool = False
