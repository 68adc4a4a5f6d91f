"""A trained model on disk: ``model.safetensors`` and ``model.json``, self-contained.

The teacher's weights are in the file, so that prediction needs neither a download nor the
package that the teacher came from.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save

from medrd.config import (
    MEDIAN_INTENSITY,
    AnyRecipeConfig,
    Config,
    ScoringConfig,
    digest,
    make_config,
)
from medrd.data.brains.profile import Profile
from medrd.data.kind import Kind
from medrd.data.kinds import kind_of
from medrd.errors import MedrdError, ModelError
from medrd.files import atomic_path, file_hash, write_json, write_text
from medrd.models.build import build_detector
from medrd.models.detector import Detector
from medrd.models.scoring import Scoring
from medrd.run.builtin import DEFAULT, HOME, LIMIT
from medrd.run.calibration import Calibration
from medrd.run.card import CARD_NAME, model_card
from medrd.run.provenance import versions
from medrd.run.weights_file import load_tensors

logger = logging.getLogger("medrd.model")

FORMAT = 1


@dataclass(frozen=True)
class Model:
    """A detector with everything that prediction needs.

    Attributes
    ----------
    config
        The resolved config with which it was trained, without paths of that machine.
    training
        What the model has seen: subject ids, content hashes, split hash; for a search with labels
        also ``validation_subjects``, on which it was chosen.
    hash
        SHA-256 over weights, config, calibration and training data.
    profile
        Summary of its training scans; None for pictures, and for models of earlier versions.
    description
        The whole content of ``model.json``.
    folder
        The folder from which it was loaded.
    """

    detector: Detector
    config: Config
    calibration: Calibration | None
    training: dict[str, Any]
    hash: str
    profile: Profile | None = None
    description: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def recipe(self) -> AnyRecipeConfig:
        """The recipe for converting volumes or pictures to slices."""
        return self.config.recipe

    @cached_property
    def kind(self) -> Kind:
        """The kind of input that it takes."""
        return kind_of(self.recipe)

    @property
    def threshold(self) -> float | None:
        """The calibrated threshold; None without a calibration."""
        return self.calibration.threshold if self.calibration else None

    @property
    def title(self) -> str:
        """The name in records; for a built-in model, with the population of its p-values."""
        name = self.config.model.name
        own = "built in; threshold and p-values from simulated brains"
        return f"{name} ({own})" if self.built_in else name

    @property
    def built_in(self) -> bool:
        """True for a model that comes with medrd."""
        return self.folder is not None and self.folder.parent == HOME

    @property
    def notice(self) -> str:
        """The notice in records; for a built-in model, with what it misses."""
        return f"{self.kind.notice} {LIMIT}" if self.built_in else self.kind.notice

    def scoring(self) -> Scoring:
        """The smoothing and image score that belong to it."""
        return make_scoring(self.config.scoring, size=self.config.recipe.size)


def make_detector(config: Config) -> Detector:
    """The detector of a config, with random weights, for images made by its recipe.

    Raises
    ------
    ValueError
        The teacher is unknown or does not fit.
    """
    layout = config.recipe.layout
    return build_detector(
        config.model,
        modalities=len(layout.modalities),
        channels=layout.channels,
        median=MEDIAN_INTENSITY,
    )


def make_scoring(config: ScoringConfig, *, size: int) -> Scoring:
    """The scoring module of a config."""
    return Scoring(
        size=size,
        sigma_px=config.sigma_px,
        image_score=config.image_score,
        top_fraction=config.top_fraction,
        sigma_across_mm=config.sigma_across_mm,
    )


def save_model(
    folder: Path,
    detector: Detector,
    config: Config,
    *,
    calibration: Calibration | None,
    training: dict[str, Any],
    profile: Profile | None = None,
    precision: str | None = None,
) -> None:
    """Write ``model.safetensors``, ``model.json`` and the model card, each atomically.

    ``precision`` is that of the calibration, as in :attr:`medrd.run.device.Execution.precision`;
    None if unknown.
    """
    unread = tuple(f"{name}." for name in detector.training_only)
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {
        key: value.detach().to("cpu").contiguous().clone()
        for key, value in detector.state_dict().items()
        if not key.startswith(unread)
    }
    if not tensors:  # an untrained baseline; the format needs at least one tensor
        tensors = {"untrained": torch.zeros(1)}
    # As bytes: save_file would leave a file that only its owner can read. One entry of metadata:
    # safetensors writes several in random order, and equal models would have unequal hashes.
    weights = save(tensors, metadata={"format": "pt"})
    with atomic_path(folder / "model.safetensors") as path:
        path.write_bytes(weights)
    described = config.to_dict()
    described["data"] |= {"root": None, "cache": None}
    if "teacher" in described["model"]:
        described["model"]["teacher"] |= {"file": None, "weights": "random"}
    content = {
        "format": FORMAT,
        "config": described,
        "teacher": config.to_dict()["model"].get("teacher"),
        "calibration": calibration.to_dict() if calibration else None,
        "precision": precision,
        "training": training,
        "profile": profile.to_dict() if profile else None,
        "weights_sha256": file_hash(folder / "model.safetensors"),
        "versions": versions(),
    }
    write_json(folder / "model.json", content)
    write_text(folder / CARD_NAME, model_card(content, _identity(content)))


def copy_model(source: Path, target: Path, *, seen: Mapping[str, Any]) -> None:
    """Copy a model, with ``seen`` added to its ``training``; each file atomically."""
    with atomic_path(target / "model.safetensors") as path:
        shutil.copyfile(source / "model.safetensors", path)
    content = json.loads((source / "model.json").read_text(encoding="utf-8"))
    content["training"] |= seen
    write_json(target / "model.json", content)
    write_text(target / CARD_NAME, model_card(content, _identity(content)))


def is_model_folder(path: Path) -> bool:
    """Whether a folder is a run or its ``model/``, judging by the names in it; it may be unfinished
    or damaged."""
    names = ("model.json", "model.safetensors")
    inside = (*names, *(f"model/{name}" for name in names), "checkpoint.pt")
    return any(os.path.isfile(path / name) for name in inside)


def load_model(path: str | Path | None) -> Model:
    """Open a run folder or its ``model/``; None is the built-in model, which is then logged.

    Raises
    ------
    ModelError
        The folder holds no model, or one that is damaged, of another format, or with weights that
        do not fit.
    """
    if path is None:
        path = DEFAULT
        logger.info(
            "the built-in model: %s, trained and calibrated on simulated brains only", path.name
        )
    folder = Path(path)
    if (folder / "model").is_dir():
        folder = folder / "model"
    description = folder / "model.json"
    if not description.is_file():
        unfinished = (Path(path) / "checkpoint.pt").is_file()
        raise ModelError(
            folder,
            expected="a run folder or a model folder (model.json, model.safetensors)",
            found="an unfinished training run" if unfinished else "no model.json",
            remedy="Finish it with medrd train --resume." if unfinished else "Check the path.",
        )
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        config = make_config(content["config"], where=str(description))
        calibration = (
            Calibration.from_dict(content["calibration"]) if content["calibration"] else None
        )
        profile = Profile.from_dict(content["profile"]) if content.get("profile") else None
        weights, training = content["weights_sha256"], content["training"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, MedrdError) as error:
        raise ModelError(
            description,
            expected=f"a model description of format {FORMAT}",
            found=_said(error),
            remedy="Copy the whole model folder again, or train with this version of medrd.",
        ) from None
    file = folder / "model.safetensors"
    try:
        if file_hash(file) != weights:
            raise ValueError("a file with another hash")
        detector = make_detector(config)
        detector.keep_for_prediction()
        state = load_tensors(file)
        state.pop("untrained", None)
        detector.load_state_dict(state)
    except (OSError, ValueError, RuntimeError, SafetensorError, MedrdError) as error:
        raise ModelError(
            file,
            expected="the weights that belong to model.json",
            found=_said(error),
            remedy="Copy the whole model folder again.",
        ) from None
    detector.eval()
    identity = _identity(content)
    logger.debug("%s: model %s, %s", folder, config.model.name, identity[:12])
    return Model(
        detector, config, calibration, training, identity, profile, content, folder.absolute()
    )


def _said(error: Exception) -> str:
    """What was found, in one line."""
    if isinstance(error, MedrdError):
        return error.found
    return (str(error) or type(error).__name__).splitlines()[0]


def _identity(content: dict[str, Any]) -> str:
    # The calibration is included: untrained baselines with different thresholds have no weights to
    # tell them apart.
    parts = ("weights_sha256", "config", "calibration", "training")
    return digest([content[part] for part in parts])
