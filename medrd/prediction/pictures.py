"""Pictures for ``medrd predict``: PNG and its kin in, TIFF on the same pixels out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medrd.config import PictureRecipeConfig
from medrd.data.pictures.kind import PreparedPicture, prepare_picture
from medrd.draw.heat import save_figure
from medrd.draw.picture_overlay import draw_picture_overlay
from medrd.errors import ConfigError, FileFormatError, InputError, ModelError
from medrd.files import atomic_path
from medrd.images.picture import Picture, read_picture
from medrd.images.volume import Volume
from medrd.metrics import lesion_table
from medrd.prediction.picture_inputs import find_pictures
from medrd.run.calibration import Calibration, standing
from medrd.run.cases import Case
from medrd.run.outputs import MAKER, PICTURE_FILES
from medrd.run.predictor import Prediction


class Finding(TypedDict):
    """A connected part of a mask. Positions are (row, column) of pixel centres, from 0."""

    area_px: int
    peak_score: float
    centroid_px: list[float]
    peak_px: list[int]


@dataclass(frozen=True, eq=False)
class OpenedPicture:
    """A picture; see :class:`medrd.prediction.medium.Opened`."""

    picture: Picture
    prepared: PreparedPicture

    def write_map(
        self, path: Path, scores: NDArray[np.float32], *, description: str, threshold: float | None
    ) -> None:
        """(H, W) as TIFF, neither rescaled nor compressed: every reader takes it as it is."""
        import tifffile

        with atomic_path(path) as temporary:
            tifffile.imwrite(
                temporary,
                scores,
                photometric="minisblack",
                description=description,
                software=False,  # which would name tifffile
                metadata=None,
            )

    def write_mask(self, path: Path, mask: NDArray[np.bool_]) -> None:
        """(H, W) as PNG of 0 and 255."""
        with atomic_path(path) as temporary:
            Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(temporary, format="PNG")

    def write_overlay(
        self, path: Path, scores: NDArray[np.float32], *, threshold: float | None, title: str
    ) -> None:
        """The picture without and with the map."""
        figure = draw_picture_overlay(
            image=self.picture.array, score_map=scores, threshold=threshold, title=title
        )
        save_figure(figure, path)

    def describe(
        self,
        prediction: Prediction,
        calibration: Calibration | None,
    ) -> dict[str, Any]:
        """Findings in pixels of the picture."""
        score, mask, scored = prediction.scan_score, prediction.mask, self.prepared.scored()
        return {
            "image_score": score,
            **standing(score, calibration, normal="normal", noun="picture"),
            "anomalous_pixels": int(mask.sum()) if mask is not None else None,
            "findings": find_parts(prediction.grid_map, mask) if mask is not None else [],
            "pixels_scored": int(scored.sum()),
            "height": scored.shape[0],
            "width": scored.shape[1],
        }


def find_parts(score_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> list[Finding]:
    """The 8-connected parts of a mask (H, W), largest first.

    In a volume of one slice with voxels of 1 mm they are lesions with 26-connectivity.
    """
    table = lesion_table(score_map[None], mask[None], np.eye(4), min_voxels=1)
    return [
        Finding(
            area_px=row["voxels"],
            peak_score=row["peak_score"],
            centroid_px=row["centroid_mm"][1:],
            peak_px=[round(place) for place in row["peak_mm"][1:]],
        )
        for row in table
    ]


def read_map(path: Path) -> NDArray[np.float32]:
    """An anomaly map that :meth:`OpenedPicture.write_map` wrote: (H, W). Raises FileFormatError."""
    import tifffile

    try:
        return np.asarray(tifffile.imread(path), np.float32)
    except Exception as error:  # tifffile raises whatever it stumbles over
        raise FileFormatError(
            path,
            expected="an anomaly map that medrd wrote",
            found=str(error) or type(error).__name__,
            remedy="Predict the picture again.",
        ) from error


class PictureFiles:
    """See :class:`medrd.prediction.medium.Medium`."""

    files = PICTURE_FILES
    notice = "Research use only."

    def __init__(self, recipe: PictureRecipeConfig) -> None:
        self._recipe = recipe

    def find(
        self, inputs: Sequence[Path], *, frame: int | None, series: str | None
    ) -> tuple[list[Case], list[InputError]]:
        """Picture files, folders of those."""
        refuse_frame("--frame", frame)
        refuse_series("--series", series)
        return find_pictures(inputs)

    def read(self, case: Case, *, budget: int) -> OpenedPicture:
        """Of any height and width up to the budget."""
        picture = read_picture(
            case.first_file, max_pixels=budget, value_range=self._recipe.value_range
        )
        return OpenedPicture(picture, prepare_picture(picture, self._recipe))

    def prepare(self, given: Volume | Mapping[str, Volume] | Picture) -> PreparedPicture:
        """A picture. Raises ModelError for volumes."""
        if not isinstance(given, Picture):
            raise ModelError(
                "volume",
                expected="a picture: the model was trained on pictures",
                found=f"a {type(given).__name__}",
                remedy="Give what medrd.read makes of a picture file, or load a model that was "
                "trained on scans.",
            )
        return prepare_picture(given, self._recipe)

    def is_own_map(self, path: Path) -> bool:
        """By the TIFF's description."""
        import tifffile

        try:
            with tifffile.TiffFile(path) as tif:
                page = tif.pages.first
                assert isinstance(page, tifffile.TiffPage)
                return page.description.startswith(MAKER)
        except Exception:  # no TIFF, or damaged: tifffile raises whatever it stumbles over
            return False


def refuse_frame(where: str | Path, frame: int | None) -> None:
    """Raise ConfigError if a frame of a picture is asked for."""
    if frame is not None:
        raise ConfigError(
            where,
            expected="none: frames are of 4D scans; of a picture the first is read",
            found=str(frame),
            remedy="Leave it out, or save that frame as a picture of its own.",
        )


def refuse_series(where: str | Path, series: str | None) -> None:
    """Raise ConfigError if a DICOM series is asked for where there are pictures."""
    if series is not None:
        raise ConfigError(
            where,
            expected="none: series are of DICOM scans",
            found=series,
            remedy="Leave it out.",
        )
