"""The registered model: the champion, the challenger beside it, and the rule that decides."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fmbseg.align.record import SUPERVISION

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION = "champion"
CHALLENGER = "challenger"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """What a head must have more of than the champion.

    Attributes:
        metric: of the runs.
        images: tag of the runs: what the metric was measured on.
        said: the rule, as the versions' tag `rule` has it.
    """

    metric: str
    images: str
    said: str


def by_truth(benchmark: str) -> Rule:
    """The rule where there is truth."""
    return Rule(
        f"miou/{benchmark}",
        f"benchmark.{benchmark}",
        f"a higher mIoU on {benchmark} than the champion's, on the same images",
    )


def by_agreement(data: str) -> Rule:
    """The rule where there is none; see `fmbseg.inference.agreement`."""
    return Rule(
        f"agreement/{data}",
        f"agreement.{data}",
        f"no truth: labels of {data} agree more with themselves under flips and scale (Cohen's "
        "kappa) than the champion's, on the same images; this is no accuracy",
    )


def promote(client: MlflowClient, name: str, run_id: str, model_id: str, rule: Rule) -> bool:
    """Register a model, and make it the champion if it beats the present one.

    The newest version that did not is the challenger. Where the champion was not measured by this
    rule, or on other images, nothing is known and it stays. The version's tags say `rule`,
    `metric`, `score`, `champion_score`, `champion_version` and `verdict`, and whose labels it has
    learned.

    Args:
        client: of the tracking server or database.
        name: of the registered model.
        run_id: the run of the new model.
        model_id: the new model.
        rule: what decides.

    Returns:
        Whether it is the champion now.
    """
    run = client.get_run(run_id)
    score = run.data.metrics.get(rule.metric)
    if score is None:
        return False
    model = _registered(client, name)
    number = model.aliases.get(CHAMPION)
    champion = None if number is None else client.get_model_version(name, number)
    if champion is not None and champion.run_id == run_id:
        return True
    best = None
    if champion is not None:
        other = client.get_run(str(champion.run_id))
        if run.data.tags.get(rule.images) == other.data.tags.get(rule.images):
            best = other.data.metrics.get(rule.metric)
        if best is None:
            _log.warning(
                "the champion of %r has no %s on the same images: it stays, compare by hand",
                name,
                rule.metric,
            )
    won = champion is None or (best is not None and score > best)
    version = _version(client, name, run_id, model_id)
    tags = {
        "rule": rule.said,
        "metric": rule.metric,
        "score": f"{score:.4f}",
        "champion_score": "not known" if best is None else f"{best:.4f}",
        "champion_version": "none" if number is None else str(number),
        "verdict": _verdict(score, best, won=won, first=champion is None),
    }
    if (supervision := run.data.tags.get(SUPERVISION)) is not None:
        tags[SUPERVISION] = supervision
    for key, value in tags.items():
        client.set_model_version_tag(name, version.version, key, value)
    _give_alias(client, model, int(version.version), won=won)
    return won


def _verdict(score: float, best: float | None, *, won: bool, first: bool) -> str:
    if first:
        return "champion: there was none"
    if best is None:
        return "challenger: the champion was not measured on the same images"
    role, sign = (CHAMPION, ">") if won else (CHALLENGER, "<=")
    return f"{role}: {score:.4f} {sign} {best:.4f}"


def _registered(client: MlflowClient, name: str) -> RegisteredModel:
    found = client.search_registered_models(f"name='{name}'")
    return found[0] if found else client.create_registered_model(name)


def _version(client: MlflowClient, name: str, run_id: str, model_id: str) -> ModelVersion:
    """The version of a run's model, made where there is none."""
    found = client.search_model_versions(f"name='{name}' and run_id='{run_id}'")
    if found:
        return found[0]
    source = client.get_logged_model(model_id).artifact_location
    return client.create_model_version(name, source, run_id, model_id=model_id)


def _give_alias(client: MlflowClient, model: RegisteredModel, version: int, *, won: bool) -> None:
    challenger = model.aliases.get(CHALLENGER)
    if won:
        client.set_registered_model_alias(model.name, CHAMPION, str(version))
        if challenger is not None and int(challenger) == version:
            client.delete_registered_model_alias(model.name, CHALLENGER)
    elif challenger is None or version > int(challenger):
        client.set_registered_model_alias(model.name, CHALLENGER, str(version))
