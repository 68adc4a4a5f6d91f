"""The folders of a data set, and the scans in them. Only names are used; no image is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medrd.errors import ConfigError
from medrd.images.formats import scan_file


def require_root(root: Path, *, inside: str) -> None:
    """Raise ConfigError if a data set's folder is missing; ``inside`` is what it should hold."""
    if not root.is_dir():
        raise ConfigError(
            root,
            expected="a data set's folder",
            found="a file" if root.exists() else "nothing there",
            remedy=f"Set data.root to the folder with the {inside}.",
        )


def folders_below(root: Path) -> Iterator[Path]:
    """The root and all folders below it that are neither hidden nor a scan, each once.

    Hidden folders hold unfinished work: a killed ``medrd phantom`` leaves its subject in one.
    Links are followed, since clusters often link data; they may form cycles.
    """
    seen: set[str] = set()
    for folder, below, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if _is_folder(Path(folder, name)))
        yield Path(folder)


def _is_folder(path: Path) -> bool:
    return not path.name.startswith(".") and scan_file(path) is None


def scans_in(folder: Path) -> dict[Path, Path]:
    """The file of each scan directly in a folder, sorted by the paths that name them.

    They differ only for a scan in a folder of its own name; see :func:`scan_file`.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path: file for path in paths if (file := scan_file(path)) is not None}
