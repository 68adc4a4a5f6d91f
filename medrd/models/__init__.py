"""Detectors: networks and their settings; no files, nothing of medrd outside this package."""
