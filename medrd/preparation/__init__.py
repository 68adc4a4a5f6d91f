"""``medrd prepare``: turns raw heads into scans like those that models are trained on.

It corrects the bias field, registers, finds the brain, and resamples to one grid. All transforms
are linear: a (4, 4) matrix from RAS+ mm of the fixed image to RAS+ mm of the moving one, as
resampling needs it. SimpleITK optimises.
"""
