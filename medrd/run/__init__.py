"""Shared by the commands: model folder, predictor, calibration, cohort, outputs, progress."""
