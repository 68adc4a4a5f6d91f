"""Find the pictures of a data set, with their sides and masks.

The layouts are the MVTec family (AD, AD 2, LOCO, 3D-AD), VisA, and a plain folder of normal and
abnormal pictures. Only names are used; no file but VisA's table is opened. A picture's folder (or
VisA's table) decides whether it is anomalous, whatever its mask holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from medrd.config import PictureLayout
from medrd.data.folders import require_root
from medrd.data.pictures.files import (
    GOOD,
    Category,
    PictureSubject,
    choose,
    folders_in,
    has_any,
    incomplete,
    logger,
    masks_in,
    name_of,
    names_in_words,
    picture_subject,
    pictures_below,
    require,
    warn_of_orphans,
    with_expected,
)
from medrd.data.pictures.mvtec import mvtec_pictures, shape_of
from medrd.data.pictures.visa import TABLE, looks_like_visa, visa_pictures
from medrd.errors import ConfigError

__all__ = ["LAYOUTS", "PictureSubject", "find_pictures"]


def find_pictures(
    root: Path, *, layout: str, category: str | Sequence[str]
) -> list[PictureSubject]:
    """All pictures of the requested categories, in order of their ids.

    Parameters
    ----------
    root
        The data set's folder, with a subfolder for each category, or one category's own folder.
    layout
        A key of :data:`LAYOUTS`, or ``visa``; ``auto`` recognises it by the names of folders.
    category
        ``all``, a category's name, or several.

    Raises
    ------
    ConfigError
        If there is no such folder or category; if a folder that the layout needs is
        missing or empty; or if two pictures have the same name.
    MissingInputError
        If a file that VisA's table names is missing, or its table has no mask for an anomalous
        picture.
    """
    require_root(root, inside="categories")
    if layout == PictureLayout.VISA or (layout == PictureLayout.AUTO and looks_like_visa(root)):
        subjects = visa_pictures(root, category)
    else:
        subjects = _from_folders(root, layout, category)
    return sorted(subjects, key=lambda subject: subject.id)


def _from_folders(root: Path, layout: str, category: str | Sequence[str]) -> list[PictureSubject]:
    """The pictures of all layouts but VisA's, which have a folder for each category."""
    auto = layout == PictureLayout.AUTO
    tried = list(LAYOUTS.values()) if auto else [LAYOUTS[layout]]
    signs = [sign for each in tried for sign in each.signs]
    inside = [folder for folder in folders_in(root) if has_any(folder, signs)]
    known = {name_of(f): f for f in ([root] if has_any(root, signs) else inside)}
    if not known:
        words = [*(each.words for each in tried), *([f"{TABLE.as_posix()} (VisA)"] if auto else [])]
        raise ConfigError(
            root,
            expected="; or ".join(dict.fromkeys(words)),
            found=names_in_words(root),
            remedy="Check data.root and data.layout.",
        )
    chosen = choose(root, list(known), category)
    kinds = {name: _layout_of(known[name]) if auto else layout for name in chosen}
    if len(set(kinds.values())) > 1:
        raise ConfigError(
            root,
            expected="categories of one layout",
            found=", ".join(f"{name} ({kind})" for name, kind in kinds.items()),
            remedy="Set data.layout, or name the categories in data.category.",
        )
    kind = kinds[chosen[0]]
    # Decided for the whole data set, because a single category without masks is damaged.
    masked = any(
        path.is_dir()
        for folder in known.values()
        for path in folder.glob(LAYOUTS[kind].masks(folder, kind))
    )
    if not masked:
        logger.warning("%s has no masks: only image-level metrics can be computed.", root)
    find = LAYOUTS[kind].pictures
    return [s for name in chosen for s in find(Category(name, known[name], kind, masked))]


def _layout_of(category: Path) -> str:
    """The first layout that fits a category."""
    return next(name for name, each in LAYOUTS.items() if has_any(category, each.own or each.signs))


def _plain(category: Category) -> Iterator[PictureSubject]:
    """The pictures of ``normal`` and ``abnormal`` (with or without subfolders for defects)."""
    folder = category.folder
    require(folder, "normal")
    normal = pictures_below(folder / "normal")
    if not any(normal.values()):
        raise incomplete(folder, "pictures in normal", "normal")
    for below, pictures in normal.items():
        for stem, path in pictures.items():
            yield picture_subject(
                category, (PurePosixPath("normal") / below / stem).as_posix(), path
            )

    claimed: set[Path] = set()
    for below, pictures in pictures_below(folder / "abnormal").items():
        defect = below.parts[0] if below.parts else "abnormal"
        if defect == GOOD:
            raise ConfigError(
                folder / "abnormal" / GOOD,
                expected="kinds of defect",
                found="a folder named good",
                remedy="Move its pictures to normal, or rename it.",
            )
        truth = folder / "masks" / below
        masks = masks_in(truth)
        if category.masked:
            masks = with_expected(masks, {s: truth / f"{s}_mask.png" for s in pictures})
        for stem, path in pictures.items():
            claimed.update(masks.get(stem, ()))
            id = (PurePosixPath("abnormal") / below / stem).as_posix()
            yield picture_subject(category, id, path, "test", defect, masks.get(stem, ()))
    every = pictures_below(folder / "masks").values()
    warn_of_orphans(mask for masks in every for mask in set(masks.values()) - claimed)


class Layout(NamedTuple):
    """A layout: how a category is recognised, and how its pictures are found."""

    pictures: Callable[[Category], Iterable[PictureSubject]]
    words: str
    """Its folders, for messages."""
    signs: tuple[str, ...]
    """Any of these makes a folder a category. What else it must hold is checked later, so that an
    incomplete category is reported and not overlooked."""
    own: tuple[str, ...] = ()
    """Any of these tells it from the layouts below it in the table, if they share its signs."""
    masks: Callable[[Path, str], str] = lambda category, name: shape_of(category, name).truth_sign
    """Pattern of the folders of masks in a category, by the layout's name."""


_MVTEC = Layout(
    mvtec_pictures,
    "<category>/train/good and <category>/test (MVTec)",
    ("train", "validation", "test", "test_public", "ground_truth"),
)
_LOCO = ("test/logical_anomalies", "test/structural_anomalies")
_LOCO_TRUTH = ("ground_truth/logical_anomalies", "ground_truth/structural_anomalies")

LAYOUTS: dict[str, Layout] = {
    PictureLayout.MVTEC_3D: _MVTEC._replace(
        own=("train/good/rgb", "validation/good/rgb", "test/good/rgb")
    ),
    PictureLayout.MVTEC_LOCO: _MVTEC._replace(own=_LOCO + _LOCO_TRUTH),
    PictureLayout.MVTEC: _MVTEC,
    PictureLayout.FOLDER: Layout(
        _plain,
        "normal and abnormal (a plain folder)",
        ("normal", "abnormal"),
        masks=lambda *_: "masks",
    ),
}
"""The layouts with a folder for each category, which are all but VisA's; ``data.layout: auto``
tries them in this order."""
