"""Data sets of pictures in every layout. Only names matter, so the files are empty."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from medrd.data.pictures.layouts import PictureSubject, find_pictures

MVTEC = (
    "train/good/000.png",
    "train/good/001.png",
    "test/good/000.png",
    "test/cut/000.png",
    "test/cut/001.png",
    "test/hole/000.png",
    "ground_truth/cut/000_mask.png",
    "ground_truth/cut/001_mask.png",
    "ground_truth/hole/000_mask.png",
)
MVTEC_2 = (
    "train/good/000_regular.png",
    "validation/good/000_regular.png",
    "test_public/good/000_regular.png",
    "test_public/bad/000_overexposed.png",
    "test_public/ground_truth/bad/000_overexposed_mask.png",
    "test_private/000_regular.png",
    "test_private_mixed/000.png",
)
LOCO = (
    "train/good/000.png",
    "validation/good/000.png",
    "test/good/000.png",
    "test/logical_anomalies/000.png",
    "test/structural_anomalies/000.png",
    "ground_truth/logical_anomalies/000/000.png",
    "ground_truth/logical_anomalies/000/001.png",
    "ground_truth/structural_anomalies/000/000.png",
    "defects_config.json",
)
MVTEC_3D = (
    "calibration/camera_parameters.json",
    "train/good/rgb/000.png",
    "train/good/xyz/000.tiff",
    "validation/good/rgb/000.png",
    "validation/good/xyz/000.tiff",
    "test/good/rgb/000.png",
    "test/good/gt/000.png",
    "test/good/xyz/000.tiff",
    "test/crack/rgb/000.png",
    "test/crack/gt/000.png",
    "test/crack/xyz/000.tiff",
)
FOLDER = (
    "normal/a.jpg",
    "normal/day2/a.jpg",
    "abnormal/x.png",
    "abnormal/crack/y.png",
    "masks/x.png",
    "masks/crack/y_mask.bmp",
)
VISA_ROWS = (
    "candle,train,normal,candle/Data/Images/Normal/0000.JPG,",
    "candle,test,normal,candle/Data/Images/Normal/0001.JPG,",
    "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
    "pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,",
    "pcb1,test,anomaly,pcb1/Data/Images/Anomaly/000.JPG,pcb1/Data/Masks/Anomaly/000.png",
)


def touch(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def visa(root: Path, rows: Sequence[str] = VISA_ROWS) -> Path:
    for row in rows:
        touch(root, [path for path in row.split(",")[3:] if path])
    (root / "split_csv").mkdir()
    lines = ["object,split,label,image,mask", *rows]
    (root / "split_csv/1cls.csv").write_text("\n".join(lines) + "\n")
    return root


def find(
    root: Path, layout: str = "auto", category: str | Sequence[str] = "all"
) -> list[PictureSubject]:
    return find_pictures(root, layout=layout, category=category)


def rows(root: Path, subjects: Iterable[PictureSubject]) -> list[tuple[object, ...]]:
    """Id, side, defect, picture and masks; paths relative to the root."""
    return [
        (
            s.id,
            s.side,
            s.defect,
            s.images["picture"].path.relative_to(root).as_posix(),
            *(mask.relative_to(root).as_posix() for mask in s.masks),
        )
        for s in subjects
    ]


def without(names: Iterable[str], *starts: str) -> list[str]:
    return [name for name in names if not name.startswith(starts)]
