"""Find the pictures of a data set, with their sides and masks.

The layouts are the MVTec family (AD, AD 2, LOCO, 3D-AD), VisA, and a plain folder of normal and
abnormal pictures. Only names are used; no file but VisA's table is opened. A picture's folder (or
VisA's table) decides whether it is anomalous, whatever its mask holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

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

LAYOUTS = ("mvtec", "mvtec_loco", "mvtec_3d", "visa", "folder")

# Any of these makes a folder a category of that layout. What else it must hold is checked
# later, so that an incomplete category is reported and not overlooked.
_MVTEC_SIGNS = ("train", "validation", "test", "test_public", "ground_truth")
_FOLDER_SIGNS = ("normal", "abnormal")
_LOCO_KINDS = ("logical_anomalies", "structural_anomalies")


def find_pictures(
    root: Path, *, layout: str, category: str | Sequence[str]
) -> list[PictureSubject]:
    """All pictures of the requested categories, in order of their ids.

    Parameters
    ----------
    root
        The data set's folder, with a subfolder for each category, or one category's own folder.
    layout
        One of :data:`LAYOUTS`, or ``auto`` to recognise it by the names of folders.
    category
        ``all``, a category's name, or several.

    Raises
    ------
    ConfigError
        If there is no such folder, layout or category; if a folder that the layout needs is
        missing or empty; or if two pictures have the same name.
    MissingInputError
        If a file that VisA's table names is missing, or its table has no mask for an anomalous
        picture.
    """
    if not root.is_dir():
        raise ConfigError(
            root,
            expected="a data set's folder",
            found="a file" if root.exists() else "nothing there",
            remedy="Set data.root to the folder with the categories.",
        )
    if layout not in (*LAYOUTS, "auto"):
        raise ConfigError(
            "data.layout",
            expected=f"auto or one of {', '.join(LAYOUTS)}",
            found=layout,
            remedy="Correct data.layout.",
        )
    if layout == "visa" or (layout == "auto" and looks_like_visa(root)):
        subjects = visa_pictures(root, category)
    else:
        subjects = _from_folders(root, layout, category)
    return sorted(subjects, key=lambda subject: subject.id)


def _from_folders(root: Path, layout: str, category: str | Sequence[str]) -> list[PictureSubject]:
    """The pictures of all layouts but VisA's, which have a folder for each category."""
    known = _categories(root, layout)
    if not known:
        raise ConfigError(
            root,
            expected=_signs_in_words(layout),
            found=names_in_words(root),
            remedy="Check data.root and data.layout.",
        )
    chosen = choose(root, list(known), category)
    kinds = {name: layout if layout != "auto" else _layout_of(known[name]) for name in chosen}
    if len(set(kinds.values())) > 1:
        raise ConfigError(
            root,
            expected="categories of one layout",
            found=", ".join(f"{name} ({kind})" for name, kind in kinds.items()),
            remedy="Set data.layout, or name the categories in data.category.",
        )
    kind = kinds[chosen[0]]
    # Decided for the whole data set, because a single category without masks is damaged.
    masked = any(_has_masks(folder, kind) for folder in known.values())
    if not masked:
        logger.warning("%s has no masks: only image-level metrics can be computed.", root)
    finder = _plain if kind == "folder" else mvtec_pictures
    return [s for name in chosen for s in finder(Category(name, known[name], kind, masked))]


def _categories(root: Path, layout: str) -> dict[str, Path]:
    """Category folders by name: the root itself, or its subfolders."""
    signs: tuple[str, ...] = ()
    if layout in ("mvtec", "mvtec_loco", "mvtec_3d", "auto"):
        signs += _MVTEC_SIGNS
    if layout in ("folder", "auto"):
        signs += _FOLDER_SIGNS
    if has_any(root, signs):
        return {name_of(root): root}
    return {folder.name: folder for folder in folders_in(root) if has_any(folder, signs)}


def _layout_of(category: Path) -> str:
    """Recognise a category's layout by the names of its folders."""
    if has_any(category, [f"{side}/good/rgb" for side in ("train", "validation", "test")]):
        return "mvtec_3d"
    if has_any(category, [f"{top}/{k}" for top in ("test", "ground_truth") for k in _LOCO_KINDS]):
        return "mvtec_loco"
    return "mvtec" if has_any(category, _MVTEC_SIGNS) else "folder"


def _has_masks(category: Path, layout: str) -> bool:
    sign = "masks" if layout == "folder" else shape_of(category, layout).truth_sign
    return any(path.is_dir() for path in category.glob(sign))


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


def _signs_in_words(layout: str) -> str:
    mvtec = "<category>/train/good and <category>/test (MVTec)"
    plain = "normal and abnormal (a plain folder)"
    visa = f"{TABLE.as_posix()} (VisA)"
    return {"auto": f"{mvtec}, {visa}, or {plain}", "folder": plain}.get(layout, mvtec)
