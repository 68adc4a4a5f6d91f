"""Raw heads -> what models were trained on: bias field, registration, brain, one grid.

Between worlds everything is linear: a (4, 4) matrix from RAS+ mm of the fixed image to RAS+ mm of
the moving one, as resampling needs it. SimpleITK optimises, and is imported only here.
"""
