"""Subjects whose healthy slices are unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from folders import touch
from medrd.config import make_config
from medrd.data.brains.kind import Brains
from medrd.data.brains.layouts import find_subjects
from medrd.errors import ConfigError


def test_all_subjects_without_a_label_are_named_with_what_may_be_theirs(tmp_path: Path) -> None:
    """As BraTS20_Training_355, whose label is called otherwise."""
    for name in ("a", "b", "c"):
        touch(tmp_path, f"{name}/{name}_flair.nii.gz", f"{name}/{name}_t1.nii.gz")
    touch(tmp_path, "a/a_seg.nii.gz", "b/W39_1998.09.19_tumour.nii")
    config = make_config({"data": {"root": str(tmp_path)}})
    assert config.data.root is not None
    subjects = find_subjects(config.data.root, layout="auto", channels=("flair",))
    kind = Brains(config.recipe)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as caught:
        kind.check_normal(subjects, config)
    assert caught.value.found == ("none for 2 of 3: b (but there is W39_1998.09.19_tumour.nii); c")
    kind.check_normal(subjects, make_config({"data": {"healthy": True}}))
