"""Data sets: subjects and their files, splits, slices and the cache of prepared slices."""
