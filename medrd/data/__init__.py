"""Volumes or pictures to training slices: BraTS, MVTec, phantom, splits, cache, lesions."""
