"""``medrd prepare``: raw heads become what models were trained on.

Bias field, registration, brain, one grid. All transforms are linear: a (4, 4) matrix from RAS+ mm
of the fixed image to RAS+ mm of the moving one, as resampling needs it. SimpleITK optimises.
"""
