"""A picture of a data set, and helpers that look for pictures and masks in folders."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from medrd.data.folders import folders_below
from medrd.data.subject import Source, Subject
from medrd.errors import ConfigError

logger = logging.getLogger("medrd.data")

GOOD = "good"
PICTURE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

Side = Literal["train", "calibration", "test", "any"]

_NAMED = 5  # files that an error or a warning lists by name


@dataclass(frozen=True)
class PictureSubject(Subject):
    """One picture of a data set.

    Attributes
    ----------
    id
        Path below the data set's folder, without the ending: ``bottle/test/cut/000``.
    images
        ``{"picture": Source(path)}``.
    label
        Always None: a picture has any number of ``masks`` instead.
    category
        ``bottle``; what one model is trained on.
    defect
        Name of the kind of defect; ``good`` is normal.
    side
        The data set's own use of the picture; ``any`` if it leaves the choice to medrd.
    masks
        Files whose union marks the defect: several in LOCO, none for a normal picture or
        in a data set without masks.
    """

    defect: str = GOOD
    side: Side = "any"
    masks: tuple[Path, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The picture and its masks."""
        return [*super().files, *self.masks]

    @property
    def anomalous(self) -> bool:
        """True if the picture's folder is one of defects."""
        return self.defect != GOOD


@dataclass(frozen=True)
class Category:
    """The folder of one category, as the functions that find pictures take it.

    Attributes
    ----------
    name, folder
        The category's name, such as ``bottle``, and its folder.
    layout
        One of :data:`medrd.data.pictures.layouts.LAYOUTS`.
    masked
        Whether the data set has masks, so that every anomalous picture must have one.
    """

    name: str
    folder: Path
    layout: str
    masked: bool


def choose(root: Path, known: Sequence[str], category: str | Sequence[str]) -> list[str]:
    """The requested categories, in order, each once.

    Raises
    ------
    ConfigError
        If a category is unknown (the error suggests the nearest one), or none is requested.
    """
    wanted = [category] if isinstance(category, str) else list(category)
    if wanted == ["all"]:
        return sorted(known)
    for name in wanted:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(
            "data.category",
            expected=f"all, or categories out of {', '.join(sorted(known))} (in {root})",
            found=name,
            remedy=f"Did you mean {near[0]}?" if near else "Correct data.category or data.root.",
        )
    if not wanted:
        raise ConfigError(
            "data.category",
            expected="all, a category or several",
            found="an empty list",
            remedy=f"Choose out of {', '.join(sorted(known))}.",
        )
    return sorted(set(wanted))


def picture_subject(
    category: Category,
    place: str,
    path: Path,
    side: Side = "any",
    defect: str = GOOD,
    masks: tuple[Path, ...] = (),
) -> PictureSubject:
    """The subject of the picture at ``place``, its path in the category without the ending."""
    id = f"{category.name}/{place}"
    return PictureSubject(id, {"picture": Source(path)}, None, category.name, defect, side, masks)


def is_picture(path: Path) -> bool:
    """Judge by the name; hidden files (macOS resource forks ``._x.png``) are not pictures."""
    return path.suffix.lower() in PICTURE_ENDINGS and not path.name.startswith(".")


def pictures_in(folder: Path) -> dict[str, Path]:
    """The pictures directly in a folder by stem, in order; none if there is no such folder.

    Raises
    ------
    ConfigError
        If two have the same stem, and so the same id and masks.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not is_picture(path) or path.is_dir():
            continue
        if path.stem in found:
            raise ConfigError(
                folder,
                expected="one picture for each name",
                found=f"{found[path.stem].name} and {path.name}",
                remedy="Remove or rename one of them.",
            )
        found[path.stem] = path
    return found


def pictures_below(top: Path) -> dict[PurePosixPath, dict[str, Path]]:
    """The pictures of each folder by stem; keys are relative to ``top``, which may be missing."""
    return {
        PurePosixPath(folder.relative_to(top).as_posix()): pictures_in(folder)
        for folder in folders_below(top)
    }


def masks_in(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The masks directly in a folder: ``000_mask.png`` or ``000.png`` belongs to picture 000."""
    masks: dict[str, tuple[Path, ...]] = {}
    for stem, path in pictures_in(folder).items():
        of = stem.removesuffix("_mask")
        if of in masks:
            raise ConfigError(
                folder,
                expected="one mask for each picture",
                found=f"{masks[of][0].name} and {path.name}",
                remedy="Remove one of them.",
            )
        masks[of] = (path,)
    return masks


def masks_in_folders(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The masks in subfolders: all of ``000/*.png`` belong to picture 000."""
    masks = {inner.name: tuple(pictures_in(inner).values()) for inner in folders_in(folder)}
    return {stem: paths for stem, paths in masks.items() if paths}


def folders_in(folder: Path) -> list[Path]:
    """The subfolders that are not hidden, in order; none if there is no such folder."""
    inside = sorted(folder.iterdir()) if folder.is_dir() else ()
    return [path for path in inside if path.is_dir() and not path.name.startswith(".")]


def has_any(folder: Path, places: Iterable[str]) -> bool:
    """True if ``folder`` contains any of these subfolders."""
    return any((folder / place).is_dir() for place in places)


def name_of(folder: Path) -> str:
    """The folder's name, even for ``.``; a link keeps its own, because the user chose it."""
    return os.path.basename(os.path.abspath(folder))


def needed_pictures(category: Path, place: str, inner: str) -> dict[str, Path]:
    """The pictures of a folder; raises ConfigError if it has none."""
    place = f"{place}/{inner}" if inner else place
    require(category, place)
    pictures = pictures_in(category / place)
    if not pictures:
        raise incomplete(category, f"pictures in {place}", place)
    return pictures


def require(category: Path, place: str) -> None:
    """Raise ConfigError if a category lacks this folder."""
    if not (category / place).is_dir():
        raise incomplete(category, f"a folder {place}", ".")


def with_expected(
    masks: Mapping[str, tuple[Path, ...]], expected: Mapping[str, Path]
) -> dict[str, tuple[Path, ...]]:
    """The masks by stem, or the path where a missing one should be.

    Reading such a picture for testing then fails with that path, and no other picture does.
    """
    bare = [path for stem, path in expected.items() if stem not in masks]
    if bare:
        names = ", ".join(str(path) for path in bare[:_NAMED])
        more = f" and {len(bare) - _NAMED} more" if len(bare) > _NAMED else ""
        logger.warning(
            "Masks that are missing: %s%s. Unpack the data set again, or remove their pictures. "
            "(Without any folder of masks, only image-level metrics are computed.)",
            names,
            more,
        )
    return {stem: masks.get(stem, (path,)) for stem, path in expected.items()}


def warn_of_orphans(masks: Iterable[Path]) -> None:
    """Warn of masks that belong to no picture: a picture may be missing."""
    orphans = sorted(masks)
    if orphans:
        names = ", ".join(str(path) for path in orphans[:_NAMED])
        more = f" and {len(orphans) - _NAMED} more" if len(orphans) > _NAMED else ""
        logger.warning("Masks that belong to no picture: %s%s", names, more)


def incomplete(category: Path, expected: str, place: str) -> ConfigError:
    """The error for an incomplete data set; it lists what is at ``place`` instead."""
    return ConfigError(
        category,
        expected=expected,
        found=names_in_words(category / place),
        remedy="Unpack the data set again, or check data.root and data.layout.",
    )


def names_in_words(folder: Path) -> str:
    """The first names in a folder, for error messages."""
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}" if names else "nothing there"
