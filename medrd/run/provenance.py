"""Provenance of a result: versions, machine, git revision, memory."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

_NUMBERS = ("medrd", "torch", "timm", "monai", "nibabel", "numpy", "scipy")
_PARTS = (
    *("SimpleITK", "dcm2niix", "highdicom", "pydicom"),
    *("ray", "optuna", "onnx", "onnxruntime", "deepbet"),
)


def versions() -> dict[str, str]:
    """Versions of Python, medrd and the libraries that affect numbers."""
    return {"python": platform.python_version()} | _installed(_NUMBERS)


def part_versions() -> dict[str, str]:
    """Versions of the libraries that only some commands need."""
    return _installed(_PARTS)


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    return {name: _version(name) for name in names}


@cache
def _version(name: str) -> str:
    """A library's version, looked up once: that takes 7 ms, and every record has it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def git_revision() -> str | None:
    """Revision of medrd's git checkout, with ``+`` if it has changes; None without a checkout."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_mib() -> float | None:
    """Peak resident memory of this process so far, in MiB; None where it is not available."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
