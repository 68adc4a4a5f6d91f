"""Shared by the verbs: model folder, predictor, calibration, cohort, outputs, progress."""
