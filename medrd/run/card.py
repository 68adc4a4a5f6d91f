"""A model card: what a model was made from, how it was measured, and what it must not be used for.

After Mitchell et al., "Model Cards for Model Reporting", 2019, in the sections of theirs for which
there are facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medrd.config.models import MODELS
from medrd.run.table import table_of

CARD_NAME = "MODEL_CARD.md"


def model_card(
    description: Mapping[str, Any], identity: str, metrics: Mapping[str, Any] | None = None
) -> str:
    """The card as Markdown.

    Parameters
    ----------
    description
        What ``model.json`` holds: config, teacher, calibration, training, profile.
    identity
        The model's hash.
    metrics
        What ``metrics.json`` of an evaluation holds; without it the card says that there is none.
    """
    config = description["config"]
    sections = [
        f"# {config['model']['name']}: anomaly maps by medrd",
        "Research use only; not a medical device. No finding here is a diagnosis.",
        "## Model",
        _bullets(_model(description, identity)),
        "## Data",
        _bullets(_data(description)),
        "## Threshold",
        _threshold(description["calibration"]),
        "## Metrics",
        _metrics(metrics),
        "## Limits",
        _bullets(_limits(description)),
    ]
    return "\n\n".join(sections) + "\n"


def _model(description: Mapping[str, Any], identity: str) -> dict[str, str]:
    config, teacher = description["config"], description.get("teacher")
    recipe, scoring = config["recipe"], config["scoring"]
    facts = {"method": f"`{config['model']['name']}`"}
    if teacher:
        facts["teacher"] = f"{teacher['name']}, weights: {teacher['weights']}"
    if recipe["kind"] == "volumes":
        facts["input"] = (
            f"{recipe['axis']} slices of {', '.join(recipe['channels'])}, {recipe['size']} pixels "
            f"for {recipe['field_mm']:g} mm, normalised by {recipe['normalise']} over the brain"
        )
    else:
        facts["input"] = f"pictures ({recipe['colour']}), {recipe['size']} pixels a side"
    facts["smoothing"] = f"{scoring['sigma_px']:g} pixels of a 256-pixel image"
    if scoring["sigma_across_mm"]:
        facts["smoothing"] += f", {scoring['sigma_across_mm']:g} mm across slices"
    facts["image score"] = str(scoring["image_score"])
    facts["hash"] = f"`{identity}`"
    return facts


def _data(description: Mapping[str, Any]) -> dict[str, str]:
    training = description["training"]
    inputs, slices = len(training["subjects"]), training.get("slices", "?")
    side = f"{inputs} inputs, {slices} slices without a lesion"
    if not _learns(description):
        side = f"nothing; the split's training side is {side}"
    facts = {
        "trained on": side,
        "calibrated on": f"{len(training['calibration_subjects'])} others",
    }
    if "validation_subjects" in training:
        facts["chosen on"] = f"the labels of {len(training['validation_subjects'])} more"
    if "split_hash" in training:
        facts["split"] = f"`{training['split_hash']}`, seed {training['seed']}"
    if "data_hash" in training:
        facts["content"] = f"`{training['data_hash']}`"
    profile = description.get("profile")
    if profile:
        edges = ", ".join(f"{low:.3g} to {high:.3g}" for low, high in profile["spacing_mm"])
        low, high = profile["brain_ml"]
        facts["voxels"] = f"{edges} mm (right, anterior, superior)"
        facts["brains"] = f"{low:.0f} to {high:.0f} ml"
    return facts


def _threshold(calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return "None: there were no held-out inputs to set one on."
    by_scan = calibration["left_out_fpr_by_scan"]
    text = (
        f"{calibration['threshold']:.6g}: {calibration['held_fpr']:.2%} of the healthy voxels or "
        f"normal pixels of {calibration['scans']} held-out inputs reach it "
        f"(wanted: {calibration['target_fpr']:.2%})."
    )
    if by_scan:
        text += (
            f" With each input left out in turn, {min(by_scan):.2%} to {max(by_scan):.2%} of its "
            "own do."
        )
    return text


def _metrics(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "Not evaluated. `medrd evaluate` writes a card with metrics beside them."
    protocol = metrics["protocol"]
    return (
        f"{table_of(metrics)}\n\n{len(protocol['subjects'])} test inputs of "
        f"{protocol['data_set']}, split `{protocol['split_hash']}`; region: {protocol['region']}."
    )


def _limits(description: Mapping[str, Any]) -> list[str]:
    found = "unlike its training data" if _learns(description) else "bright in its input"
    limits = [
        f"Finds what is {found}, which is not the same as disease.",
        "Says nothing reliable of inputs unlike those above; `medrd predict` warns of some.",
    ]
    if description["config"]["recipe"]["kind"] == "volumes":
        limits += [
            "Scans must be skull-stripped, 0 outside the brain.",
            "Where training subjects were patients, their healthy slices still show mass effect "
            "and treatment.",
        ]
    teacher = description.get("teacher")
    if teacher and teacher["weights"] == "random":
        limits.append("The teacher's weights are random: for tests, not for results.")
    return limits


def _learns(description: Mapping[str, Any]) -> bool:
    return MODELS[description["config"]["model"]["name"]].learns


def _bullets(facts: Mapping[str, str] | list[str]) -> str:
    lines = facts if isinstance(facts, list) else [f"{key}: {text}" for key, text in facts.items()]
    return "\n".join(f"- {line}" for line in lines)
