"""Anomalies put into healthy images, for training and for tuning without labels."""
