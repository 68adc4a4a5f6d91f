"""DICOM objects about a scan that came as DICOM: Segmentation, Parametric Map and report.

For research only; none of them is meant for diagnosis.
"""
