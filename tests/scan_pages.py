"""A scan's page made from arrays, for tests of its content and appearance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.draw.heat import HeatScale
from medrd.pages.embed import embed_scan
from medrd.pages.page import write_page
from medrd.pages.scan_page import ScanView, scan_page
from medrd.run.record import PredictionRecord

THRESHOLD = 0.4
SHAPE = (52, 60, 44)
AFFINE = np.diag([-3.0, -3.0, 3.0, 1.0])  # LPS, as BraTS has it
AFFINE[:3, 3] = [78, 88, -63]
FIRST, SECOND = (16, 30, 22), (33, 39, 29)  # voxels of two findings that share no plane
SUBJECT = "<b>A & B</b>"


def make_record(**changes: Any) -> PredictionRecord:
    def finding(at: tuple[int, int, int], volume_mm3: float, peak: float) -> dict[str, Any]:
        mm = (AFFINE @ [*at, 1])[:3].tolist()
        return {
            "voxels": 100,
            "volume_mm3": volume_mm3,
            "peak_score": peak,
            "centroid_mm": mm,
            "peak_mm": mm,
        }

    content = {
        "subject": SUBJECT,
        "inputs": {"flair": "a.nii.gz"},
        "label": "seg.nii.gz",
        "frame": None,
        "scan_score": 0.9,
        "healthy_scans": 4,
        "healthy_percentile": 75.0,
        "p_value": 0.4,
        "threshold": THRESHOLD,
        "threshold_target_fpr": 0.02,
        "findings_volume_mm3": 3000.0,
        "findings": [finding(FIRST, 2500.0, 0.7), finding(SECOND, 50.0, 0.5)],
        "slices_scored": 20,
        "slices": 32,
        "warnings": ["a </script> warning"],
        "unlike_training": [],
        "not_judged": ["contrast: too few scans"],
        "model": {"name": "rd4ad", "hash": "0" * 64},
        "versions": {"medrd": "0"},
        "notice": "Research use only.",
        "outputs": {"map": {"file": "a_anomaly.nii.gz", "sha256": "2" * 64}},
        "identity": {"device": "cpu", "precision": "fp32", "inputs": {"flair": "1" * 64}},
    }
    return PredictionRecord(**{**content, **changes})


def make_arrays() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """A grey ellipsoid, a map with two findings in it, and a label around the first."""
    place = np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2
    inside = (((place / [17, 21, 14]) ** 2).sum(-1) < 1).T
    image = np.where(inside, 100 + 3 * np.indices(SHAPE)[2], 0).astype(np.float32)
    heat = np.where(inside, np.float32(0.1), 0).astype(np.float32)
    truth = np.zeros(SHAPE, bool)
    for at, score in ((FIRST, 0.7), (SECOND, 0.5)):
        heat[tuple(slice(i - 4, i + 4) for i in at)] = score
    truth[tuple(slice(i - 6, i + 6) for i in FIRST)] = True
    return image, heat * inside, truth & inside


def make_page(path: Path, **changes: Any) -> Path:
    image, heat, truth = make_arrays()
    embedded = embed_scan(image, heat, AFFINE, unit=THRESHOLD, truth=truth)
    view = ScanView(make_record(**changes), HeatScale(THRESHOLD, 2 * THRESHOLD), embedded)
    write_page(path, scan_page(view))
    return path
