"""What the verbs share: model folder, predictor, calibration, cohort, outputs, progress."""
