"""DICOM objects for a DICOM scan: Segmentation, Parametric Map and report.

They are for research only, not for diagnosis.
"""
