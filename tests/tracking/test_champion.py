"""Champion and challenger: what is registered, by which rule, and what its tags say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from fmbseg.config import parse_config
from fmbseg.store.paths import Paths
from fmbseg.tracking.champion import (
    CHALLENGER,
    CHAMPION,
    Rule,
    by_agreement,
    by_truth,
    promote,
)
from fmbseg.tracking.logged_model import log_checkpoint
from fmbseg.tracking.open import open_tracker
from tests.heads import write_head
from tests.workspace import SPLIT

TRUTH = by_truth("voc21")
Offer = Callable[..., tuple[str, bool]]


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of the registered model."""
    return str(request.node.name)


@pytest.fixture
def offer(client: MlflowClient, checkpoint: Path, name: str, tmp_path: Path) -> Offer:
    """Offers a head of a run with a score: offer(57.0) -> (the run, whether it won)."""
    experiment = client.create_experiment(name, (tmp_path / "mlruns").as_uri())

    def offered(score: float, images: str = "val", rule: Rule = TRUTH) -> tuple[str, bool]:
        run_id = client.create_run(experiment).info.run_id
        client.log_metric(run_id, rule.metric, score)
        client.set_tag(run_id, rule.images, images)
        model_id = log_checkpoint(client, experiment, run_id, checkpoint)
        return run_id, promote(client, name, run_id, model_id, rule)

    return offered


@pytest.fixture
def at(client: MlflowClient, name: str) -> Callable[[str], ModelVersion]:
    """The version at an alias."""
    return lambda alias: client.get_model_version_by_alias(name, alias)


def test_only_a_better_head_becomes_the_champion(
    offer: Offer,
    at: Callable[[str], ModelVersion],
    client: MlflowClient,
    name: str,
    database: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, won = offer(20.0)
    assert won and at(CHAMPION).run_id == first
    assert at(CHAMPION).tags["verdict"] == "champion: there was none"
    for miou in (19.9, 20.0):
        loser, won = offer(miou)
        assert not won
        assert at(CHALLENGER).run_id == loser
    assert at(CHAMPION).run_id == first
    better, won = offer(20.1)
    assert won and at(CHAMPION).run_id == better
    # Scored on other images: nothing is known, so it stays.
    lucky, won = offer(90.0, "val, first 4")
    assert not won
    assert "compare by hand" in caplog.text
    assert (at(CHAMPION).run_id, at(CHALLENGER).run_id) == (better, lucky)
    assert at(CHALLENGER).tags["verdict"] == (
        "challenger: the champion was not measured on the same images"
    )
    assert len(client.search_model_versions(f"name='{name}'")) == 5
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(database)
    try:
        assert mlflow.pyfunc.load_model(f"models:/{name}@{CHAMPION}").metadata is not None
    finally:
        mlflow.set_tracking_uri(before)


def test_tags_say_the_rule_and_both_scores(offer: Offer, at: Callable[[str], ModelVersion]) -> None:
    offer(57.25)
    offer(55.5)
    assert at(CHALLENGER).tags == {
        "rule": "a higher mIoU on voc21 than the champion's, on the same images",
        "metric": "miou/voc21",
        "score": "55.5000",
        "champion_score": "57.2500",
        "champion_version": "1",
        "verdict": "challenger: 55.5000 <= 57.2500",
    }
    offer(60.0)
    assert at(CHAMPION).tags["verdict"] == "champion: 60.0000 > 57.2500"
    assert at(CHALLENGER).tags["score"] == "55.5000"  # the newest that did not win


def test_a_head_that_is_offered_again_is_not_registered_again(
    offer: Offer, at: Callable[[str], ModelVersion], client: MlflowClient, name: str
) -> None:
    offer(50.0)
    older, _ = offer(40.0)
    newer, _ = offer(45.0)

    def again(run_id: str) -> bool:
        model_id = client.get_run(run_id).data.tags["mlflow.fmbseg.model_id"]
        return promote(client, name, run_id, model_id, TRUTH)

    assert not again(older)
    assert at(CHALLENGER).run_id == newer
    assert len(client.search_model_versions(f"name='{name}'")) == 3
    # Scored anew, it wins: then it is no challenger any more.
    client.log_metric(newer, "miou/voc21", 51.0)
    assert again(newer) and again(newer)
    assert at(CHAMPION).run_id == newer
    assert CHALLENGER not in client.get_registered_model(name).aliases


def test_agreement_does_not_beat_truth(offer: Offer, at: Callable[[str], ModelVersion]) -> None:
    by_eye = by_agreement("folder")
    measured, _ = offer(50.0)
    assert not offer(0.9, rule=by_eye)[1]
    assert at(CHAMPION).run_id == measured
    assert "no truth" in at(CHALLENGER).tags["rule"]
    assert "no accuracy" in at(CHALLENGER).tags["rule"]


def test_a_folder_without_truth_has_a_champion_by_agreement(
    client: MlflowClient, name: str, database: str, coco: Path
) -> None:
    tracking = {"uri": database, "experiment": name, "model": name}
    pictures = {"name": "coco_stuff", "root": "coco", "split": SPLIT}
    raw = {"data": pictures, "tracking": tracking, "run": {"threads": 1}}
    config, paths = parse_config(raw), Paths(coco.parent)
    for seed in (0, 1):
        write_head(paths.align, seed)
        (paths.align / "curve.csv").write_text("epoch,loss,lr\n1,0.5,0.1\n")
        (paths.align / "manifest.json").write_text(f'{{"key": "training {seed}"}}')
        open_tracker(config, paths.root).trained(config, "fmbseg", paths.align)
    aliases = client.get_registered_model(name).aliases
    versions = {
        version.run_id: version for version in client.search_model_versions(f"name='{name}'")
    }
    assert len(versions) == 2
    scores = {
        run_id: client.get_run(str(run_id)).data.metrics["agreement/coco_stuff"]
        for run_id in versions
    }
    best = max(scores, key=lambda run_id: scores[run_id])
    assert client.get_model_version(name, aliases[CHAMPION]).run_id == best
    assert all("no truth" in version.tags["rule"] for version in versions.values())
    for version in versions.values():
        assert version.tags["score"] == f"{scores[version.run_id]:.4f}"
