"""``medrd demo``: a first prediction, or the whole workflow, on simulated brains."""

from __future__ import annotations

import logging
from pathlib import Path

from medrd.config import Config, make_config
from medrd.evaluation.evaluate import evaluate
from medrd.files import write_text
from medrd.images.nifti import read_nifti
from medrd.metrics import lesion_counts
from medrd.prediction.predict import predict
from medrd.run.cohort import load_cohort
from medrd.run.phantoms import make_phantoms
from medrd.run.record import PredictionRecord
from medrd.run.table import markdown_table, metrics_table
from medrd.training.train import train

logger = logging.getLogger("medrd.demo")

_PATIENT_SEED = 3
"""Seed of the patient, whom the built-in model has not seen."""
_SHOWN = 5
"""Largest number of findings in the table; the record has all."""


def demo_config(out: Path, *, subjects: int, epochs: int) -> Config:
    """Config with half of the brains for training, one in eight for calibration, the rest for
    testing."""
    calibration = max(1, subjects // 8)
    training = subjects // 2
    return make_config(
        {
            "data": {
                "root": str(out / "brains"),
                "cache": str(out / "cache"),
                "split": {
                    "train": training,
                    "calibration": calibration,
                    "test": subjects - training - calibration,
                },
            },
            # The same as in configs/brats/rdseg.yaml; a test keeps the two equal.
            "recipe": {
                "size": 128,
                "field_mm": 192,
                "normalise": "median",
                "shading": "quadratic",
                "place": True,
            },
            "model": {
                "name": "rdseg",
                "mirror": True,
                "intensity_weight": 32,
                "simulation": {"contents": ["lesion"], "probability": 0.8, "min_change": 0.04},
            },
            "scoring": {
                "sigma_px": 2,
                "sigma_across_mm": 2,
                "image_score": "top",
                "top_fraction": 0.01,
            },
            "train": {
                "epochs": epochs,
                "batch_size": 16,
                "augment": {"flip": True, "gamma": 0.25, "gain": 0.25},
            },
            "calibration": {"voxel_fpr": 0.001, "with_training": True},
        },
        where="demo",
    )


def run_demo(out: str | Path) -> str:
    """Simulate a patient and predict their FLAIR with the built-in model.

    Returns a text with the findings, how well they cover the tumour, and the paths of the results.
    """
    out = Path(out)
    (patient,) = make_phantoms(out / "patient", 1, seed=_PATIENT_SEED)
    result = predict(None, patient, out / "maps", report=True)
    if result.errors:
        raise result.errors[0]
    (path,) = (*result.done, *result.skipped)
    record = PredictionRecord.load(path, remedy=f"Remove {path}, and run the demo again.")
    outputs = [path.parent / output.file for output in record.outputs.values()]
    label = read_nifti(patient / f"{patient.name}_seg.nii.gz")
    marked = read_nifti(path.parent / record.outputs["mask"].file)
    tumour = label.array > 0
    tumour_ml = tumour.sum() * label.voxel_volume_mm3 / 1000
    dice = lesion_counts(marked.array > 0, tumour).dice
    rows = [
        [
            ", ".join(f"{mm:.0f}" for mm in finding["centroid_mm"]),
            f"{finding['volume_mm3'] / 1000:.1f}",
        ]
        for finding in record.findings[:_SHOWN]
    ]
    return "\n".join(
        [
            "",
            f"The patient has a tumour of {tumour_ml:.1f} ml. Findings: "
            f"{len(record.findings)}, Dice with the tumour {dice:.2f}.",
            "",
            markdown_table(["centre, mm (R, A, S)", "ml"], rows),
            "",
            "map, mask and picture on the scan's own grid, and the table as JSON:",
            *(f"  {each}" for each in (*outputs, path)),
            f"report, for a browser: {out / 'maps' / 'report.html'}",
            "",
            "Your own scan: medrd predict SCAN.nii.gz --out maps",
            "(FLAIR without the skull; for a raw head, add --prepare)",
        ]
    )


def train_demo(out: str | Path, *, subjects: int, epochs: int) -> str:
    """Simulate brains, train RDSeg, predict and evaluate; finished steps are kept.

    Returns a text with the metrics, those of the intensity baseline, and the paths of the results.
    """
    out = Path(out)
    config = demo_config(out, subjects=subjects, epochs=epochs)
    write_text(out / "config.yaml", config.to_yaml())
    make_phantoms(out / "brains", subjects)
    run = train(config, out / "run", resume=True)
    test = load_cohort(config).side("test")
    folders = [next(iter(subject.images.values())).path.parent for subject in test]
    report = predict(run, folders, out / "maps", report=True)
    metrics = evaluate(run, config, out / "evaluation")
    if report.errors:
        raise report.errors[0]
    maps = sorted((out / "maps").glob("*_anomaly.nii.gz"))
    return "\n".join(
        [
            "",
            f"{len(test)} simulated brains that the model had never seen:",
            "",
            metrics_table(metrics),
            "",
            "intensity is the untrained baseline, hard to beat if lesions are simply bright.",
            "Dice is at the calibrated threshold, best Dice at the best one in hindsight.",
            "Fewer false positives per scan (FP/scan) are better.",
            "",
            f"report, for a browser: {out / 'maps' / 'report.html'}",
            "anomaly maps on the scans' own grids:",
            *(f"  {path}" for path in maps),
            f"model: {run / 'model'}",
            "",
            "Your own scans: medrd predict " + str(run) + " SCAN.nii.gz --out maps",
            "(this model was trained on simulated brains only; train one on real scans first)",
        ]
    )
