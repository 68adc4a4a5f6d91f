"""Optional packages: which extra of ``pyproject.toml`` brings them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from medrd.errors import MissingExtraError

Extra = Literal["ray", "tune", "export", "prepare", "dicom", "brain"]

_MODULES: dict[Extra, tuple[str, ...]] = {
    "ray": ("ray", "pyarrow"),
    "tune": ("ray", "tensorboardX", "optuna"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "prepare": ("SimpleITK",),
    "dicom": ("pydicom", "highdicom"),
    "brain": ("deepbet",),
}
"""Modules by which an extra is recognised; nothing is imported to find them."""


def require_extra(extra: Extra, needed_by: str) -> None:
    """Check that an extra is installed, before any work that needs it begins.

    Parameters
    ----------
    needed_by
        The command or option that needs it, as the user would type it: ``medrd tune``.

    Raises
    ------
    MissingExtraError
        If one of its packages is not installed.
    """
    missing = [name for name in _MODULES[extra] if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            needed_by,
            expected=f"the packages of medrd[{extra}]",
            found=f"no {' and no '.join(missing)}",
            remedy=f"Install them: pip install 'medrd[{extra}]'.",
        )
