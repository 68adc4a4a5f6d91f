"""Pictures of industrial parts: MVTec AD and similar data sets, one picture per subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medrd.config import Config, PictureDataConfig, PictureRecipeConfig
from medrd.data.cases import Case, Found
from medrd.data.kind import TestItem, TrainingItem
from medrd.data.output_names import MAKER, PICTURE_FILES
from medrd.data.pictures.find import find_pictures
from medrd.data.pictures.layouts import PictureSubject
from medrd.data.pictures.layouts import find_pictures as picture_subjects
from medrd.data.pictures.opened import OpenedPicture
from medrd.data.pictures.prepare import PreparedPicture, picture_hash, prepare_picture
from medrd.data.pictures.split import split_pictures
from medrd.data.split import Split
from medrd.data.subject import Subject
from medrd.errors import ConfigError, EmptyMaskError, ModelError
from medrd.images.labels import MOST
from medrd.images.picture import Picture, read_picture, read_picture_mask
from medrd.images.volume import Volume


class Pictures:
    """See :class:`medrd.data.kind.Kind`."""

    volumetric = False

    # There are hundreds of pictures of the same part; those left out are reported.
    spares_damaged = True
    files = PICTURE_FILES
    normal = "normal"
    notice = "Research use only."

    def __init__(self, recipe: PictureRecipeConfig) -> None:
        self.recipe = recipe

    def subjects(self, config: Config) -> list[Subject]:
        """Pictures of the requested categories."""
        data = _data(config)
        assert data.root is not None
        return list(picture_subjects(data.root, layout=data.layout, category=data.category))

    def split(self, subjects: Sequence[Subject], config: Config) -> Split:
        """Split by the data set's folders; see :func:`medrd.data.pictures.split.split_pictures`."""
        pictures = [_picture(subject) for subject in subjects]
        return split_pictures(pictures, _data(config), seed=config.seed)

    def check_normal(self, subjects: Sequence[Subject], config: Config) -> None:
        """Nothing to check: folders separate normal pictures."""

    def training_item(self, subject: Subject, *, budget: int) -> TrainingItem:
        """Read and prepare a normal picture."""
        picture = self._read(subject, budget)
        levels = picture.array * np.float32(255)
        return TrainingItem(
            prepare_picture(picture, self.recipe),
            np.zeros(0, np.int64),
            picture_hash(picture),
            fine=bool(np.abs(levels - np.rint(levels)).max() > 1e-3),  # deeper than 8 bits
        )

    def test_item(self, subject: Subject, *, budget: int) -> TestItem:
        """Read a picture, the union of its masks, and its label, which is its folder's.

        Raises
        ------
        EmptyMaskError
            The masks of an anomalous picture outline nothing.
        """
        own = _picture(subject)
        picture = self._read(subject, budget)
        height, width = picture.array.shape[:2]
        truth: NDArray[np.bool_] | None = np.zeros((height, width), bool)
        warnings: tuple[str, ...] = ()
        if own.anomalous and own.masks:
            truth = read_picture_mask(own.masks, shape=(height, width), max_pixels=budget)
            if not truth.any():
                raise EmptyMaskError(
                    ", ".join(str(path) for path in own.masks),
                    expected=f"the outline of the {own.defect} in {own.images['picture'].path}",
                    found="a mask that is 0 everywhere",
                    remedy="Correct the mask, or move the picture to the good ones.",
                )
            if (share := float(truth.mean())) > MOST:
                warnings = (f"The masks cover {share:.0%} of the picture: are they inverted?",)
        elif own.anomalous:
            truth = None
        prepared = prepare_picture(picture, self.recipe)
        return TestItem(
            prepared=prepared,
            truth=truth,
            evaluated=np.ones((height, width), bool),
            scored=prepared.scored(),
            anomalous=np.array([own.anomalous]),
            content=picture_hash(picture),
            label_warnings=warnings,
        )

    def baseline_recipe(self) -> PictureRecipeConfig:
        """Brightness."""
        return self.recipe.model_copy(update={"colour": "grey"})

    def protocol(self) -> dict[str, str]:
        """All pixels count, at the picture's own resolution."""
        return {
            "region": "all",
            "region_note": (
                "all pixels at the picture's own resolution"
                if self.recipe.resize != "crop"
                else "all pixels at the picture's own resolution; outside of the middle square "
                "nothing is found"
            ),
            "image": "picture; anomalous if it is in a folder of defects",
        }

    def find(self, inputs: Sequence[Path], *, frame: int | None, series: str | None) -> Found:
        """Picture files, folders of those."""
        refuse_frame("--frame", frame)
        refuse_series("--series", series)
        return find_pictures(inputs)

    def read(self, case: Case, *, budget: int) -> OpenedPicture:
        """Read a picture of any height and width up to the budget."""
        picture = self._read(case.subject, budget)
        return OpenedPicture(picture, prepare_picture(picture, self.recipe))

    def prepare_slices(self, given: Volume | Mapping[str, Volume] | Picture) -> PreparedPicture:
        """A picture. Raises ModelError for volumes."""
        if not isinstance(given, Picture):
            raise ModelError(
                "volume",
                expected="a picture: the model was trained on pictures",
                found=f"a {type(given).__name__}",
                remedy="Give what medrd.read makes of a picture file, or load a model that was "
                "trained on scans.",
            )
        return prepare_picture(given, self.recipe)

    def is_own_map(self, path: Path) -> bool:
        """True if the TIFF's description begins with medrd's name."""
        import tifffile

        try:
            with tifffile.TiffFile(path) as tif:
                page = tif.pages.first
                assert isinstance(page, tifffile.TiffPage)
                return page.description.startswith(MAKER)
        except Exception:  # no TIFF, or damaged: tifffile raises whatever it stumbles over
            return False

    def _read(self, subject: Subject, budget: int) -> Picture:
        path, value_range = subject.images["picture"].path, self.recipe.value_range
        return read_picture(path, max_pixels=budget, value_range=value_range)


def refuse_frame(where: str | Path, frame: int | None) -> None:
    """Raise ConfigError if a frame of a picture is requested."""
    if frame is not None:
        raise ConfigError(
            where,
            expected="none: frames are for 4D scans; of a picture, the first frame is read",
            found=str(frame),
            remedy="Remove it, or save that frame as a separate picture.",
        )


def refuse_series(where: str | Path, series: str | None) -> None:
    """Raise ConfigError if a DICOM series is requested for pictures."""
    if series is not None:
        raise ConfigError(
            where,
            expected="none: series are for DICOM scans",
            found=series,
            remedy="Leave it out.",
        )


def _data(config: Config) -> PictureDataConfig:
    assert isinstance(config.data, PictureDataConfig)  # Config ensures that they match
    return config.data


def _picture(subject: Subject) -> PictureSubject:
    assert isinstance(subject, PictureSubject)
    return subject
