"""Pictures of the MVTec family: AD, AD 2, LOCO and 3D-AD.

Bergmann et al. 2019 (AD), Heckler-Kram et al. 2025 (AD 2), Bergmann et al. 2022 (LOCO and
3D-AD): ``train/good``, a folder a defect to test on, and masks beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
    """What sets one data set of the family apart; paths are relative to a category.

    Attributes
    ----------
    test
        Holds a folder a defect.
    inner
        Folder between a defect's folder and its pictures, if any.
    truth, mask
        A defect's folder of masks, and a picture's mask in it (as errors name it).
    truth_sign
        Pattern of the folders whose presence says that the data set has masks.
    needs_validation
        Whether ``validation/good`` must be there; it is used wherever it is.
    masks_by_stem
        A folder of masks -> the masks of each picture's stem.
    """

    test: str
    inner: str
    truth: str
    mask: str
    truth_sign: str
    needs_validation: bool
    masks_by_stem: Callable[[Path], dict[str, tuple[Path, ...]]]


def shape_of(category: Path, layout: str) -> Shape:
    """What a category of this layout looks like."""
    if layout == "mvtec_loco":
        # Several masks a picture: a defect of logic may lie in several places.
        return Shape(
            test="test",
            inner="",
            truth="ground_truth/{defect}",
            mask="{stem}/000.png",
            truth_sign="ground_truth",
            needs_validation=True,
            masks_by_stem=masks_in_folders,
        )
    if layout == "mvtec_3d":
        return Shape(
            test="test",
            inner="rgb",  # beside it xyz: the positions of the surface, which we leave aside
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
        raise incomplete(folder, f"{shape.test}/{GOOD} and a folder a kind of defect", shape.test)
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
        logger.info("%s: left aside, has no labels: %s", category, ", ".join(private))
    others = [p.name for p in folders_in(category / "train") if p.name != GOOD]
    if others:
        logger.warning(
            "%s: left aside, training uses good only: %s", category / "train", ", ".join(others)
        )
