"""How a model's networks compute a prediction."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from medrd.models.fused import fused, largest_difference
from medrd.run.device import Execution
from medrd.run.model_folder import Model
from medrd.run.predictor import Predictor

logger = logging.getLogger("medrd.model")

Engine = Literal["auto", "torch", "fused"]
"""``fused`` folds BatchNorm into convolutions (:mod:`medrd.models.fused`): maps differ in their
last bits. ``auto`` is ``fused`` on a CPU, where it is faster, and otherwise ``torch``."""
_FEW = 4
"""Slices at a time in fp32; these fit better into a CPU's caches than 16."""
_TOLERANCE = 1e-4
"""Largest accepted difference of fused maps, as a share of their range."""


def make_predictor(
    model: Model, execution: Execution, engine: Engine
) -> tuple[Predictor, Literal["torch", "fused"]]:
    """A predictor, and the engine that it uses: ``torch`` if fused networks bring nothing, need
    too much memory or give other maps."""
    plain = Predictor(model.detector, model.scoring(), execution)
    on_cpu = execution.device.type == "cpu"
    # Another copy of a bank of features may not fit into memory.
    if engine == "torch" or model.detector.memory_size or (engine == "auto" and not on_cpu):
        return plain, "torch"
    quick = fused(plain.detector)
    side, channels = model.recipe.size, model.recipe.layout.channels
    noise = np.random.default_rng(0).random((1, channels, side, side), np.float32)
    images = execution.images(noise)
    region = torch.ones_like(images[:, 0], dtype=torch.bool)
    # In fp32: in bf16, rounding alone would make them differ by more than the tolerance.
    apart = largest_difference(plain.detector, quick, images, region)
    if not apart <= _TOLERANCE:
        logger.warning("the fused networks differ by %.2g; the engine is torch", apart)
        return plain, "torch"
    execution = replace(execution, channels_last=True)
    few = plain.batch_size if execution.bf16 else _FEW
    return Predictor(quick, plain.scoring, execution, batch_size=few), "fused"
