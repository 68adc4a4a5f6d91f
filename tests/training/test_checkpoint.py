"""The checkpoint: everything that a run needs to continue, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from medrd.errors import ModelError
from medrd.models.rd4ad import RD4AD
from medrd.training.checkpoint import Position, load_checkpoint, save_checkpoint
from medrd.training.loop import make_optimizers
from training import SMALL, build

SAME = {"identity": "x", "precision": "fp32"}


def test_a_checkpoint_holds_every_trainable_tensor_and_no_frozen_one(tmp_path: Path) -> None:
    detector = build(RD4AD, SMALL)
    save_checkpoint(tmp_path / "c.pt", detector, {}, Position(0, 0, {}), **SAME)
    saved = torch.load(tmp_path / "c.pt", weights_only=True)["detector"]
    expected = [key for key in detector.state_dict() if not key.startswith("teacher.")]
    assert sorted(saved) == sorted(expected)


def test_a_checkpoint_brings_weights_statistics_and_optimiser_back(tmp_path: Path) -> None:
    def make(seed: int) -> tuple[Any, dict[str, torch.optim.Optimizer]]:
        torch.manual_seed(seed)
        detector = build(RD4AD, SMALL).train()
        optimizers = make_optimizers(detector.steps())
        return detector, optimizers

    detector, optimizers = make(0)
    for _ in range(2):
        detector.anomaly_map(torch.rand(2, 3, 64, 64)).sum().backward()
        optimizers["distil"].step()
    position = Position(3, 5, {"distil": 0.1 + 0.2})
    save_checkpoint(tmp_path / "c.pt", detector, optimizers, position, **SAME)
    expected = torch.rand(1)

    other, others = make(1)
    state = dict(other.state_dict())
    frozen = {k: v.clone() for k, v in state.items() if k.startswith("teacher.")}
    assert load_checkpoint(tmp_path / "c.pt", other, others, **SAME) == position
    assert torch.equal(torch.rand(1), expected)  # the random state too
    for key, value in detector.state_dict().items():
        wanted = frozen.get(key, value)
        assert torch.equal(other.state_dict()[key], wanted), key
    mine, theirs = (list(o["distil"].state.values()) for o in (optimizers, others))
    assert len(mine) == len(list(detector.bottleneck.parameters())) + len(
        list(detector.decoder.parameters())
    )
    for a, b in zip(mine, theirs, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "other detector", "missing tensor"])
def test_a_damaged_checkpoint_is_a_model_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "c.pt"
    detector = build(RD4AD, SMALL)
    save_checkpoint(path, detector, {}, Position(0, 0, {}), **SAME)
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("no checkpoint")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage == "other detector":
        detector = build(RD4AD, "tf_efficientnet_lite0")
    else:
        content = torch.load(path, weights_only=True)
        # One of those that PyTorch itself would not miss.
        del content["detector"][
            next(key for key in content["detector"] if key.endswith("num_batches_tracked"))
        ]
        torch.save(content, path)
    with pytest.raises(ModelError):
        load_checkpoint(path, detector, {}, **SAME)


@pytest.mark.parametrize("before", ["bf16", "fp32", None])
def test_a_training_that_continues_in_another_precision_says_so(
    tmp_path: Path, before: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Earlier versions did not record it."""
    path = tmp_path / "c.pt"
    detector = build(RD4AD, SMALL)
    save_checkpoint(path, detector, {}, Position(), identity="x", precision=before or "")
    if before is None:
        content = torch.load(path, weights_only=True)
        del content["precision"]
        torch.save(content, path)
    with caplog.at_level(logging.WARNING):
        load_checkpoint(path, detector, {}, **SAME)
    assert ("begun in bf16 and continues in fp32" in caplog.text) == (before == "bf16")
