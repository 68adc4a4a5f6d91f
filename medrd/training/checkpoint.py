"""Checkpoints from which a killed training continues; they hold only plain types and tensors.

They are loaded with ``weights_only=True``, so a checkpoint from elsewhere cannot run code.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medrd.errors import ModelError
from medrd.files import atomic_path
from medrd.models.detector import Detector
from medrd.run.weights_file import read_torch_file

logger = logging.getLogger("medrd.train")

FORMAT = 2


@dataclass(frozen=True)
class Position:
    """The point at which a training continues.

    Attributes
    ----------
    epoch, batch
        The next epoch and batch, counted from 0.
    losses
        Sums of this epoch's losses so far, by step, for the line in ``metrics.jsonl``.
    """

    epoch: int = 0
    batch: int = 0
    losses: dict[str, float] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    detector: Detector,
    optimizers: dict[str, torch.optim.Optimizer],
    position: Position,
    *,
    identity: str,
    precision: str,
) -> None:
    """Write a checkpoint atomically: the previous one stays until the new one is complete.

    ``identity`` is the hash of config and data; :func:`load_checkpoint` refuses another one.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "identity": identity,
        "precision": precision,
        "epoch": position.epoch,
        "batch": position.batch,
        "losses": dict(position.losses),
        "detector": _trainable_state(detector),
        "optimizers": {name: opt.state_dict() for name, opt in optimizers.items()},
        "watch": detector.monitor_state(),
        "rng": torch.get_rng_state(),
        "rng_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(
    path: Path,
    detector: Detector,
    optimizers: dict[str, torch.optim.Optimizer],
    *,
    identity: str,
    precision: str,
) -> Position:
    """Restore detector, optimisers and random states; warn if the precision was another.

    Raises
    ------
    ModelError
        The file is damaged, or belongs to a run with another config or other data.
    """
    try:
        content = read_torch_file(path)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        found = content["identity"]
    except (ModelError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            path,
            expected="a checkpoint of medrd train",
            found=getattr(error, "found", None) or f"something else ({error!r})",
            remedy="Remove it and train again.",
        ) from None
    if found != identity:
        raise ModelError(
            path,
            expected="a checkpoint of the same config and data",
            found="one of another config, or of scans or a teacher file that have changed since",
            remedy="Resume with the run's own config.yaml and data, or choose another --out.",
        )
    saved, wanted = content["detector"], _trainable_state(detector)
    wrong = sorted(saved.keys() ^ wanted.keys()) or [
        key for key, value in wanted.items() if saved[key].shape != value.shape
    ]
    if wrong:
        raise ModelError(
            path,
            expected="the weights of this detector",
            found=f"other tensors ({wrong[0]})",
            remedy="Remove it and train again.",
        )
    if (before := content.get("precision", precision)) != precision:  # earlier versions omit it
        logger.warning(
            "the run was begun in %s and continues in %s, as the device computes: its weights will "
            "differ by rounding from those of a run in one precision",
            before,
            precision,
        )
    detector.load_state_dict(saved, strict=False)  # the frozen networks' are not in it
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(content["optimizers"][name])
    detector.load_monitor_state(content["watch"])
    torch.set_rng_state(content["rng"])
    if content["rng_cuda"] and torch.cuda.is_available():
        # It may have been written on a machine with more of them.
        torch.cuda.set_rng_state_all(content["rng_cuda"][: torch.cuda.device_count()])
    return Position(content["epoch"], content["batch"], content["losses"])


def _trainable_state(detector: Detector) -> dict[str, Tensor]:
    """The state without frozen networks, which are loaded anew from their own files."""
    # By name: each call of state_dict makes new tensors.
    frozen = tuple(
        f"{name}."
        for name, module in detector.named_modules()
        if any(module is network for network in detector.frozen)
    )
    state = detector.state_dict()
    return {key: value for key, value in state.items() if not key.startswith(frozen)}
