"""A picture that has been read, and its results: TIFF and PNG on the picture's own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medrd.data.pictures.prepare import PreparedPicture
from medrd.errors import FileFormatError
from medrd.files import atomic_path
from medrd.images.picture import Picture
from medrd.metrics import lesion_table


class Finding(TypedDict):
    """A connected part of a mask. Positions are (row, column) of pixel centres, from 0."""

    area_px: int
    peak_score: float
    centroid_px: list[float]
    peak_px: list[int]


@dataclass(frozen=True, eq=False)
class OpenedPicture:
    """A picture; see :class:`medrd.data.kind.Opened`."""

    picture: Picture
    prepared: PreparedPicture

    def write_map(
        self, path: Path, scores: NDArray[np.float32], *, description: str, threshold: float | None
    ) -> None:
        """Write (H, W) as TIFF, neither rescaled nor compressed, which every reader can read."""
        import tifffile

        with atomic_path(path) as temporary:
            tifffile.imwrite(
                temporary,
                scores,
                photometric="minisblack",
                description=description,
                software=False,  # which would otherwise name tifffile
                metadata=None,
            )

    def write_mask(self, path: Path, mask: NDArray[np.bool_]) -> None:
        """Write (H, W) as PNG with values 0 and 255."""
        with atomic_path(path) as temporary:
            Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(temporary, format="PNG")

    def write_overlay(
        self, path: Path, scores: NDArray[np.float32], *, threshold: float | None, title: str
    ) -> None:
        """Draw the picture without and with the map."""
        from medrd.draw.heat import save_figure
        from medrd.draw.picture_overlay import draw_picture_overlay

        figure = draw_picture_overlay(
            image=self.picture.array, score_map=scores, threshold=threshold, title=title
        )
        save_figure(figure, path)

    def describe(
        self,
        scores: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
        image_scores: NDArray[np.float32],
    ) -> dict[str, Any]:
        """Describe the findings in pixels of the picture."""
        scored = self.prepared.scored()
        return {
            "image_score": float(image_scores.max()),
            "anomalous_pixels": int(mask.sum()) if mask is not None else None,
            "findings": find_parts(scores, mask) if mask is not None else [],
            "pixels_scored": int(scored.sum()),
            "height": scored.shape[0],
            "width": scored.shape[1],
        }


def find_parts(score_map: NDArray[np.float32], mask: NDArray[np.bool_]) -> list[Finding]:
    """The 8-connected parts of a mask (H, W), largest first.

    They are found as lesions with 26-connectivity in a volume of one slice with voxels of 1 mm.
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
