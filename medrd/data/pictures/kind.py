"""Pictures of industrial parts as a domain: MVTec AD and its kin, one picture a subject."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medrd.config import AnyRecipeConfig, Config, PictureDataConfig, PictureRecipeConfig
from medrd.data.domain import TestItem, TrainingItem
from medrd.data.layouts import Subject
from medrd.data.pictures.frame import PictureFrame
from medrd.data.pictures.layouts import PictureSubject, find_pictures
from medrd.data.pictures.split import split_pictures
from medrd.data.split import Split
from medrd.errors import EmptyMaskError
from medrd.images.picture import Picture, read_picture, read_picture_mask


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture as a stack of one square image; see :class:`medrd.data.domain.Prepared`.

    Attributes
    ----------
    images
        (1, C, size, size) float32 in [0, 1], C = 1 or 3.
    region
        (1, size, size) bool: False in the padding of ``resize: fit``.
    frame
        The way back to the picture's own grid.
    """

    images: NDArray[np.float32]
    region: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    frame: PictureFrame
    warnings: tuple[str, ...]

    @property
    def positions_mm(self) -> NDArray[np.float64]:
        """(1,) 0: it has no neighbours."""
        return np.zeros(1)

    @property
    def traits(self) -> None:
        """A picture has none."""

    def to_grid(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map (1, size, size) at the picture's own resolution (H, W)."""
        return self.frame.to_picture(maps[0])

    def scored(self) -> NDArray[np.bool_]:
        """(H, W): all of it, or the middle square with ``resize: crop``."""
        return self.frame.shown()

    def upright(self, array: NDArray[Any]) -> NDArray[Any]:
        """(H, W) -> (1, H, W)."""
        return array[None]


def prepare_picture(picture: Picture, recipe: PictureRecipeConfig) -> PreparedPicture:
    """A picture as the network sees it."""
    array = picture.array
    if recipe.colour == "grey":
        array = array.mean(axis=2, keepdims=True, dtype=np.float32)
    elif array.shape[2] == 1:  # pictures of one data set may be stored either way
        array = np.repeat(array, 3, axis=2)
    frame = PictureFrame((array.shape[0], array.shape[1]), recipe.size, recipe.resize)
    return PreparedPicture(
        images=frame.to_square(array)[None],
        region=frame.region()[None],
        numbers=np.zeros(1, np.int64),
        frame=frame,
        warnings=picture.warnings,
    )


def picture_hash(picture: Picture) -> str:
    """SHA-256 over the pixels: one picture, however it is named or compressed."""
    result = hashlib.sha256(repr(picture.array.shape).encode())
    result.update(np.ascontiguousarray(picture.array).data)
    return result.hexdigest()


class Pictures:
    """See :class:`medrd.data.domain.Domain`."""

    # One among hundreds of the same part; what is left out is reported.
    spares_damaged = True

    def find(self, config: Config) -> list[Subject]:
        """Pictures of the categories that are asked for."""
        data = _data(config)
        assert data.root is not None
        return list(find_pictures(data.root, layout=data.layout, category=data.category))

    def split(self, subjects: Sequence[Subject], config: Config) -> Split:
        """By the data set's folders; see :func:`medrd.data.pictures.split.split_pictures`."""
        pictures = [_picture(subject) for subject in subjects]
        return split_pictures(pictures, _data(config), seed=config.seed)

    def check_normal(self, subjects: Sequence[Subject], config: Config) -> None:
        """The folder says it."""

    def training_item(
        self, subject: Subject, recipe: AnyRecipeConfig, *, budget: int
    ) -> TrainingItem:
        """A normal picture."""
        picture = _read(subject, recipe, budget)
        levels = picture.array * np.float32(255)
        return TrainingItem(
            prepare_picture(picture, _recipe(recipe)),
            np.zeros(0, np.int64),
            picture_hash(picture),
            fine=bool(np.abs(levels - np.rint(levels)).max() > 1e-3),  # deeper than 8 bits
        )

    def test_item(self, subject: Subject, recipe: AnyRecipeConfig, *, budget: int) -> TestItem:
        """A picture, the union of its masks, and its label, which is its folder's.

        Raises
        ------
        EmptyMaskError
            The masks of an anomalous picture outline nothing.
        """
        own = _picture(subject)
        picture = _read(subject, recipe, budget)
        height, width = picture.array.shape[:2]
        truth: NDArray[np.bool_] | None = np.zeros((height, width), bool)
        if own.anomalous and own.masks:
            truth = read_picture_mask(own.masks, shape=(height, width), max_pixels=budget)
            if not truth.any():
                raise EmptyMaskError(
                    ", ".join(str(path) for path in own.masks),
                    expected=f"the outline of the {own.defect} in {own.images['picture'].path}",
                    found="a mask that is 0 everywhere",
                    remedy="Mend the mask, or move the picture to the good ones.",
                )
        elif own.anomalous:
            truth = None
        return TestItem(
            prepared=prepare_picture(picture, _recipe(recipe)),
            truth=truth,
            judged=np.ones((height, width), bool),
            anomalous=np.array([own.anomalous]),
            content=picture_hash(picture),
        )

    def baseline_recipe(self, recipe: AnyRecipeConfig) -> PictureRecipeConfig:
        """Brightness."""
        return _recipe(recipe).model_copy(update={"colour": "grey"})

    def protocol(self, recipe: AnyRecipeConfig) -> dict[str, str]:
        """All pixels, at the picture's own resolution."""
        recipe = _recipe(recipe)
        return {
            "region": "all",
            "region_note": (
                "all pixels at the picture's own resolution"
                if recipe.resize != "crop"
                else "all pixels at the picture's own resolution; outside of the middle square "
                "nothing is found"
            ),
            "image": "picture; anomalous if its folder says so",
        }


def _read(subject: Subject, recipe: AnyRecipeConfig, budget: int) -> Picture:
    return read_picture(
        subject.images["picture"].path,
        max_pixels=budget,
        value_range=_recipe(recipe).value_range,
    )


def _data(config: Config) -> PictureDataConfig:
    assert isinstance(config.data, PictureDataConfig)  # Config sees that they are alike
    return config.data


def _recipe(recipe: AnyRecipeConfig) -> PictureRecipeConfig:
    assert isinstance(recipe, PictureRecipeConfig)
    return recipe


def _picture(subject: Subject) -> PictureSubject:
    assert isinstance(subject, PictureSubject)
    return subject
