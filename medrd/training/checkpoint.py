"""What a killed training run goes on from: plain types and tensors, nothing else.

Loaded with ``weights_only=True``, so a checkpoint from elsewhere cannot run code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medrd.errors import ModelError
from medrd.files import atomic_path
from medrd.models import Detector

FORMAT = 2


@dataclass(frozen=True)
class Position:
    """Where a run stands.

    Attributes
    ----------
    epoch, batch
        The next to do, from 0.
    losses
        Sums of this epoch's losses so far, by step; they go into its line of metrics.
    """

    epoch: int
    batch: int
    losses: dict[str, float]


def save_checkpoint(
    path: Path,
    detector: Detector,
    optimizers: dict[str, torch.optim.Optimizer],
    position: Position,
    *,
    identity: str,
) -> None:
    """Write atomically: the last one stays until the new one is whole.

    ``identity`` is the hash of config and data; another one is not resumed from.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "identity": identity,
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
) -> Position:
    """Put detector, optimisers and random states where they were.

    Raises
    ------
    ModelError
        Damaged, or of a run with another config or other data.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        found = content["identity"]
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        raise ModelError(
            path,
            expected="a checkpoint of medrd train",
            found=(str(error) or type(error).__name__).splitlines()[0],
            remedy="Remove it and train again.",
        ) from None
    if found != identity:
        raise ModelError(
            path,
            expected="a checkpoint of the same config and data",
            found="one of another config or other data",
            remedy="Resume with the run's own config.yaml, or give another --out.",
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
    detector.load_state_dict(saved, strict=False)  # the frozen networks' are not in it
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(content["optimizers"][name])
    detector.load_monitor_state(content["watch"])
    torch.set_rng_state(content["rng"])
    if content["rng_cuda"] and torch.cuda.is_available():
        # It may have been written where there were more of them.
        torch.cuda.set_rng_state_all(content["rng_cuda"][: torch.cuda.device_count()])
    return Position(content["epoch"], content["batch"], content["losses"])


def _trainable_state(detector: Detector) -> dict[str, Tensor]:
    """All but frozen networks, which are loaded anew from where they came."""
    # By name: the tensors of a state dict are made anew for each call.
    frozen = tuple(
        f"{name}."
        for name, module in detector.named_modules()
        if any(module is network for network in detector.frozen)
    )
    state = detector.state_dict()
    return {key: value for key, value in state.items() if not key.startswith(frozen)}
