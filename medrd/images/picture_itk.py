"""16-bit colour by SimpleITK, which keeps it where Pillow cuts it to 8 bits.

Not torchvision, whose decoders are deprecated (0.29) and to be removed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray


def read_by_itk(path: Path, image_io: Literal["PNGImageIO", "TIFFImageIO"]) -> NDArray[Any]:
    """(H, W, C). Raises RuntimeError for what ITK cannot read."""
    import SimpleITK  # heavy, and needed by few

    # Named, because ITK goes by suffixes otherwise.
    values: NDArray[Any] = SimpleITK.GetArrayFromImage(
        SimpleITK.ReadImage(str(path), imageIO=image_io)
    )
    return values[..., None] if values.ndim == 2 else values
