"""Split pictures into train, calibration and test, mostly by the data set's own folders."""

from __future__ import annotations

from collections.abc import Sequence

from medrd.config import PictureDataConfig
from medrd.data.pictures.layouts import PictureSubject
from medrd.data.split import Split, seeded_order
from medrd.errors import ConfigError

AUTO_SHARE = 0.1
"""Share of normal training pictures that is held out for calibration if there is no folder."""


def split_pictures(
    pictures: Sequence[PictureSubject], config: PictureDataConfig, *, seed: int
) -> Split:
    """Divide pictures into train, calibration (held-out normal) and test, in each category.

    Test pictures are those of the data set, whatever the seed. Calibration pictures are drawn
    from train/good in the order of SHA-256 over seed and id, like subjects (see
    :func:`medrd.data.split.split_subjects`), unless ``calibration`` is ``auto`` and the data
    set has normal pictures for this purpose (``validation/good``), which are never trained
    on. In the layout ``folder``, which has no such folders, a share of the normal pictures is
    used for testing.

    Raises
    ------
    ConfigError
        If no normal picture is left to train on.
    """
    sides: dict[str, list[str]] = {"train": [], "calibration": [], "test": []}
    for category in sorted({picture.category for picture in pictures}):
        _split_category([p for p in pictures if p.category == category], config, seed, sides)
    return Split(**{side: tuple(sorted(ids)) for side, ids in sides.items()})


def _split_category(
    pictures: Sequence[PictureSubject],
    config: PictureDataConfig,
    seed: int,
    sides: dict[str, list[str]],
) -> None:
    by_side: dict[str, list[str]] = {"train": [], "calibration": [], "test": [], "any": []}
    for picture in pictures:
        by_side[picture.side].append(picture.id)
    normal = seeded_order(by_side["train"] + by_side["any"], seed=seed)
    total = len(normal)
    test = list(by_side["test"])
    if by_side["any"]:
        count = max(1, round(config.normal_test * total))
        test += normal[:count]
        normal = normal[count:]
    if config.calibration == "auto" and by_side["calibration"]:
        held_out = by_side["calibration"]
    else:
        wanted = AUTO_SHARE if config.calibration == "auto" else config.calibration
        share = isinstance(wanted, float) and wanted > 0
        count = max(1, round(wanted * total)) if share else int(wanted)
        held_out, normal = normal[:count], normal[count:]
    if not normal:
        raise ConfigError(
            "data.calibration",
            expected=f"normal pictures of {pictures[0].category} left to train on",
            found=f"{total} normal ones, all held out",
            remedy="Lower data.calibration, or add pictures.",
        )
    sides["train"] += normal
    sides["calibration"] += held_out
    sides["test"] += test
