"""Figures: maps over scans and pictures."""
