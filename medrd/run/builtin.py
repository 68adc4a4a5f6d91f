"""The models that come with medrd, each a model folder in ``medrd/builtin/``."""

from __future__ import annotations

import json
from pathlib import Path

from medrd.run.card import CARD_NAME, section

HOME = Path(__file__).parents[1] / "builtin"
DEFAULT = HOME / "flair"
"""The model that is used if none is given."""
POPULATION = "simulated healthy people"
"""Whom the built-in models are calibrated on."""
LIMIT = (
    "No finding does not mean healthy: the built-in model misses lesions, above all small ones "
    "such as those of multiple sclerosis, and of a mass it may mark only a part."
)
"""What every result of a built-in model says; its card says more."""


def list_builtin() -> str:
    """Each built-in model's folder, input and size, with the metrics from its card."""
    return "\n\n".join(_describe(path.parent) for path in sorted(HOME.glob("*/model.json")))


def _describe(folder: Path) -> str:
    config = json.loads((folder / "model.json").read_text(encoding="utf-8"))["config"]
    size_mb = (folder / "model.safetensors").stat().st_size / 1e6
    channels = ", ".join(config["recipe"]["channels"])
    card = (folder / CARD_NAME).read_text(encoding="utf-8")
    heading = f"{folder.name}: {config['model']['name']} on {channels}, {size_mb:.1f} MB"
    return f"{heading}\n{folder}\n\n{section(card, 'Metrics')}"
