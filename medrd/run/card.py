"""Model cards: how a model was made and measured, and what it must not be used for.

After Mitchell et al., "Model Cards for Model Reporting", 2019, limited to the sections that can
be filled with facts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medrd.models.detectors import detector_class
from medrd.run.table import table_of

CARD_NAME = "MODEL_CARD.md"


def model_card(
    description: Mapping[str, Any], identity: str, metrics: Mapping[str, Any] | None = None
) -> str:
    """The card as Markdown.

    Parameters
    ----------
    description
        The content of ``model.json``: config, teacher, calibration, training, profile.
    identity
        The model's hash.
    metrics
        The content of an evaluation's ``metrics.json``, if there is one.
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


def section(card: str, heading: str) -> str:
    """The text below a card's heading, up to the next one."""
    return card.partition(f"## {heading}\n")[2].partition("\n## ")[0].strip()


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
        # Models from before this key have it not.
        if recipe.get("shading", "kept") != "kept":
            facts["input"] += ", after division by smooth shading"
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
    kind = ", lesions outlined" if training.get("labelled") else " without a lesion"
    side = f"{inputs} inputs, {slices} slices{kind}"
    if not _learns(description):
        side = f"nothing (the training side of the split has {side})"
    facts = {
        "trained on": side,
        "calibrated on": f"{len(training['calibration_subjects'])} other inputs",
    }
    if "validation_subjects" in training:
        facts["chosen on"] = f"the labels of {len(training['validation_subjects'])} further inputs"
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
        return "None: there were no held-out inputs to calibrate on."
    by_scan = calibration["left_out_fpr_by_scan"]
    text = (
        f"{calibration['threshold']:.6g}: {calibration['held_fpr']:.2%} of the healthy voxels or "
        f"normal pixels of {calibration['scans']} held-out inputs reach it "
        f"(target: {calibration['target_fpr']:.2%})."
    )
    if by_scan:
        text += (
            " If each input is left out of the calibration in turn, "
            f"{min(by_scan):.2%} to {max(by_scan):.2%} of its own voxels or pixels reach the "
            "threshold."
        )
    return text


def _metrics(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "Not evaluated. `medrd evaluate` writes a card that includes its metrics."
    protocol = metrics["protocol"]
    return (
        f"{table_of(metrics)}\n\n{len(protocol['subjects'])} test inputs of "
        f"{protocol['data_set']}, split `{protocol['split_hash']}`; region: {protocol['region']}."
    )


def _limits(description: Mapping[str, Any]) -> list[str]:
    sought = "unlike its training data" if _learns(description) else "bright in its input"
    limits = [
        f"The model finds what is {sought}, which is not the same as disease.",
        "Its maps of inputs unlike those above are not reliable; `medrd predict` warns of some.",
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
    return detector_class(description["config"]["model"]["name"]).section.learns


def _bullets(facts: Mapping[str, str] | list[str]) -> str:
    lines = facts if isinstance(facts, list) else [f"{key}: {text}" for key, text in facts.items()]
    return "\n".join(f"- {line}" for line in lines)
