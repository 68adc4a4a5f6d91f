"""Pictures of the MVTec family: AD, AD 2, LOCO and 3D-AD.

Bergmann et al. 2019 (AD), Heckler-Kram et al. 2025 (AD 2), Bergmann et al. 2022 (LOCO and
3D-AD): ``train/good``, a folder of test pictures for each defect, and masks beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from medrd.config import PictureLayout
from medrd.data.pictures.files import (
    GOOD,
    Category,
    PictureSubject,
    Side,
    folders_in,
    incomplete,
    logger,
    masks_in,
    masks_in_folders,
    needed_pictures,
    picture_subject,
    require,
    warn_of_orphans,
    with_expected,
)


@dataclass(frozen=True)
class Shape:
    """The layout of one data set of the family; paths are relative to a category.

    Attributes
    ----------
    test
        Folder with a subfolder for each defect.
    inner
        Folder between a defect's folder and its pictures, if any.
    truth, mask
        A defect's folder of masks, and a picture's mask in it, for error messages.
    truth_sign
        Pattern of folders; the data set has masks if any of them exists.
    needs_validation
        Whether ``validation/good`` is required; it is used in any case if it exists.
    masks_by_stem
        Finds the masks in a folder, by the stem of their picture.
    """

    test: str
    inner: str
    truth: str
    mask: str
    truth_sign: str
    needs_validation: bool
    masks_by_stem: Callable[[Path], dict[str, tuple[Path, ...]]]


def shape_of(category: Path, layout: str) -> Shape:
    """The shape of a category in this layout."""
    if layout == PictureLayout.MVTEC_LOCO:
        # A picture may have several masks, because a logical defect may lie in several places.
        return Shape(
            test="test",
            inner="",
            truth="ground_truth/{defect}",
            mask="{stem}/000.png",
            truth_sign="ground_truth",
            needs_validation=True,
            masks_by_stem=masks_in_folders,
        )
    if layout == PictureLayout.MVTEC_3D:
        return Shape(
            test="test",
            inner="rgb",  # beside xyz, the positions of the surface, which are not used
            truth="test/{defect}/gt",
            mask="{stem}.png",
            truth_sign="test/*/gt",
            needs_validation=True,
            masks_by_stem=masks_in,
        )
    second = (category / "test_public").is_dir()  # MVTec AD 2
    test, top = ("test_public", "test_public/ground_truth") if second else ("test", "ground_truth")
    return Shape(
        test=test,
        inner="",
        truth=f"{top}/{{defect}}",
        mask="{stem}_mask.png",
        truth_sign=top,
        needs_validation=second,
        masks_by_stem=masks_in,
    )


def mvtec_pictures(category: Category) -> Iterator[PictureSubject]:
    """The pictures of one category of MVTec AD, AD 2, LOCO or 3D-AD."""
    folder = category.folder
    shape = shape_of(folder, category.layout)
    _say_what_is_left_aside(folder)
    yield from _normal(category, shape, "train/good", "train")
    if shape.needs_validation or (folder / "validation/good").is_dir():
        yield from _normal(category, shape, "validation/good", "calibration")
    require(folder, shape.test)
    yield from _test(category, shape)


def _normal(category: Category, shape: Shape, place: str, side: Side) -> Iterator[PictureSubject]:
    for stem, path in needed_pictures(category.folder, place, shape.inner).items():
        yield picture_subject(category, f"{place}/{stem}", path, side)


def _test(category: Category, shape: Shape) -> Iterator[PictureSubject]:
    folder = category.folder
    claimed: set[Path] = set()
    # AD 2 keeps its masks below the folder of test pictures.
    defects = [d.name for d in folders_in(folder / shape.test) if d.name != "ground_truth"]
    if not defects:
        raise incomplete(
            folder, f"{shape.test}/{GOOD} and a folder for each kind of defect", shape.test
        )
    for defect in defects:
        pictures = needed_pictures(folder, f"{shape.test}/{defect}", shape.inner)
        truth = folder / shape.truth.format(defect=defect)
        masks = shape.masks_by_stem(truth)
        claimed.update(mask for stem in pictures for mask in masks.get(stem, ()))
        if defect == GOOD:
            masks = {}  # 3D-AD has empty ones
        elif category.masked:
            expected = {stem: truth / shape.mask.format(stem=stem) for stem in pictures}
            masks = with_expected(masks, expected)
        for stem, path in pictures.items():
            id = f"{shape.test}/{defect}/{stem}"
            yield picture_subject(category, id, path, "test", defect, masks.get(stem, ()))
    every = (shape.masks_by_stem(t) for t in sorted(folder.glob(shape.truth.format(defect="*"))))
    warn_of_orphans(m for masks in every for found in masks.values() for m in set(found) - claimed)


def _say_what_is_left_aside(category: Path) -> None:
    private = [p.name for p in folders_in(category) if p.name.startswith("test_private")]
    if private:
        logger.info("%s: left out, because it has no labels: %s", category, ", ".join(private))
    others = [p.name for p in folders_in(category / "train") if p.name != GOOD]
    if others:
        logger.warning(
            "%s: left out, because training uses only good: %s",
            category / "train",
            ", ".join(others),
        )
