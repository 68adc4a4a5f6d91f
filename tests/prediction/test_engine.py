"""``medrd predict --engine``: the fused networks give the maps of those that were trained."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medrd.models import fused as fused_module
from medrd.prediction.predict import predict
from medrd.run import engine as engine_module
from medrd.run.device import choose_execution
from medrd.run.engine import Engine, make_predictor
from medrd.run.model_folder import load_model


def predicted(run: Path, scan: Path, out: Path, engine: Engine) -> tuple[Any, Any, dict[str, Any]]:
    """Map, mask and record."""
    predict(run, [scan], out, engine=engine, device="cpu", picture=False)
    map_, mask = (
        np.asarray(nib.load(out / f"scan_{n}.nii.gz").dataobj) for n in ("anomaly", "mask")
    )
    return map_, mask, json.loads((out / "scan.json").read_text(encoding="utf-8"))


def test_the_engines_agree_and_are_recorded(tiny_run: Path, scan: Path, tmp_path: Path) -> None:
    """Within a thousandth of the threshold, and so is every voxel that the masks disagree on."""
    model = load_model(tiny_run)
    threshold = model.threshold
    assert threshold is not None
    plain, plain_mask, record = predicted(tiny_run, scan, tmp_path / "torch", "torch")
    quick, quick_mask, quick_record = predicted(tiny_run, scan, tmp_path / "fused", "fused")
    assert (record["identity"]["engine"], quick_record["identity"]["engine"]) == ("torch", "fused")
    assert not np.array_equal(plain, quick)  # the option does something
    np.testing.assert_allclose(quick, plain, atol=1e-3 * threshold)
    apart = plain_mask != quick_mask
    assert (np.abs(plain[apart] - threshold) < 1e-3 * threshold).all()


def test_fused_networks_that_differ_are_not_used(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(tiny_run)

    def wrong(detector: Any) -> Any:
        result = fused_module.fused(detector)
        next(result.teacher.parameters()).data.mul_(1.1)
        return result

    monkeypatch.setattr(engine_module, "fused", wrong)
    with caplog.at_level(logging.WARNING):
        predictor, engine = make_predictor(model, choose_execution("cpu", "fp32"), "fused")
    assert engine == "torch"
    assert predictor.detector is model.detector
    assert "differ" in caplog.text


def test_fused_networks_round_as_little_in_bfloat16(tiny_run: Path) -> None:
    """On a CPU in bfloat16 they are chosen too, and as close to fp32 as networks not fused."""
    model = load_model(tiny_run)
    side, channels = model.recipe.size, model.recipe.layout.channels
    images = np.random.default_rng(0).random((4, channels, side, side), np.float32)
    region = np.ones((4, side, side), bool)
    exact = make_predictor(model, choose_execution("cpu", "fp32"), "torch")[0].maps(images, region)
    quick, engine = make_predictor(model, choose_execution("cpu", "bf16"), "auto")
    assert engine == "fused"
    fused_error = np.abs(quick.maps(images, region)[0] - exact[0]).max()
    plain = make_predictor(model, choose_execution("cpu", "bf16"), "torch")[0]
    plain_error = np.abs(plain.maps(images, region)[0] - exact[0]).max()
    assert 0 < fused_error < 2 * plain_error
