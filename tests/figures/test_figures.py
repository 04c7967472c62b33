"""The figures of a run: what they show, and that equal runs give equal files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg.figures import FIGURES
from fmbseg.figures.canvas import FRAME, STAR
from fmbseg.figures.patches import coloured
from fmbseg.figures.stage import draw_figures, function_of
from fmbseg.figures.studio import Studio
from fmbseg.machine.progress import silent_progress
from fmbseg.pipeline.run import workplace
from fmbseg.stage.workplace import Workplace
from fmbseg.store.paths import Paths
from tests.workspace import MakeConfig, opened, run

BEFORE = ("features", "align", "oracle", "evaluate")


@pytest.fixture
def work(labelled: Paths, make_config: MakeConfig) -> Workplace:
    """A workspace with everything that figures are drawn from."""
    config = make_config()
    for stage in BEFORE:
        run(stage, config, labelled)
    return workplace(config, labelled, silent_progress())


def test_the_stage_draws_all_and_the_same_again(work: Workplace, tmp_path: Path) -> None:
    report = run("figures", work.config, work.paths)
    assert report.computed == 1
    names = {f"{name}.{ending}" for name in FIGURES for ending in ("png", "pdf")}
    assert {path.name for path in work.paths.figures.iterdir()} == names | {"manifest.json"}
    assert run("figures", work.config, work.paths).computed == 0
    again = tmp_path / "again"
    again.mkdir()
    draw_figures(work, FIGURES, again)
    for name in sorted(names):
        assert (again / name).read_bytes() == (work.paths.figures / name).read_bytes(), name


def test_they_are_drawn_again_where_a_score_is_another(
    work: Workplace, make_config: MakeConfig
) -> None:
    run("figures", work.config, work.paths)
    other = make_config(evaluate={"batch_size": 1})
    assert not opened("figures", other, work.paths).published


def test_querying_frames_the_mask_that_stage_1_took(work: Workplace) -> None:
    studio = Studio(work)
    figure = function_of(FIGURES["querying"])(studio)
    rows = np.array(figure.axes).reshape(-1, 4)
    assert len(rows) == min(4, len(studio.detections))
    for line, (_, row) in zip(rows, studio.detections, strict=False):
        (stars,) = line[0].collections
        assert np.allclose(stars.get_offsets().ravel(), row["points"])
        said = [float(panel.get_title().removeprefix("IoU ")) for panel in line[1:]]
        framed = [panel.spines["top"].get_linewidth() == 2.0 for panel in line[1:]]
        assert framed.index(True) == int(np.argmax(said)) and sum(framed) == 1
    assert STAR != FRAME


def test_similarity_shows_the_segmenters_own_cosines(work: Workplace) -> None:
    studio = Studio(work)
    figure = function_of(FIGURES["similarity"])(studio)
    panel = np.array(figure.axes).reshape(-1, 3)[0, 2]
    record, row = studio.detections[0]
    found = studio.segmenter.predict(studio.image(record), vocabulary=studio.words)
    assert np.allclose(panel.images[0].get_array(), found.scores[row["class_index"]], atol=1e-5)


def test_principal_components_are_those_of_the_singular_value_decomposition() -> None:
    rng = np.random.default_rng(0)
    grids = [
        rng.normal(size=(h, w, 6)).astype(np.float32) * [9, 5, 3, 1, 1, 1]
        for h, w in ((7, 5), (4, 8))
    ]
    rows = np.concatenate([grid.reshape(-1, 6) for grid in grids])
    centred = rows - rows.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    found = np.concatenate([grid.reshape(-1, 3) for grid in coloured(grids)])
    for column, axis in zip(found.T, axes, strict=False):
        inside = (column > 0) & (column < 1)
        assert inside.sum() > 40
        assert abs(np.corrcoef(column[inside], (centred @ axis)[inside])[0, 1]) > 0.9999
    assert found.min() == 0 and found.max() == 1


def test_a_picture_is_large_enough_for_print(work: Workplace, tmp_path: Path) -> None:
    draw_figures(work, ["results"], tmp_path)
    with Image.open(tmp_path / "results.png") as image:
        assert image.info["dpi"] == pytest.approx((200, 200), abs=1)
        assert image.width > 1000
