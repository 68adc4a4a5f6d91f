"""One ingredient less in the built-in model's stream of phantoms or in its network: its ablations.

``benchmarks/builtin.py --without NAME`` uses this. The stream's ingredients are taken out by
replacing functions of :mod:`medrd.phantom` in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from medrd.phantom import disease, varied
from medrd.phantom.anatomy import ADULTS, Head, Tissues
from medrd.phantom.fields import FloatArray


class Typical(np.random.Generator):
    """A generator whose numbers for one person's traits are the middle of their range.

    Random fields, which take normal numbers by the array, remain random.
    """

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """The middle."""
        middle = (np.asarray(low) + np.asarray(high)) / 2
        return float(middle) if size is None else np.full(size, middle)

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        """The mean."""
        return float(loc) if size is None else np.full(size, loc)


def _anatomy() -> None:
    """Heads of one cohort of adults: no other ages, none cut off, all stripped well."""
    varied.ANYBODY = ADULTS
    varied._field_of_view = lambda rng, head: None


def _contrast() -> None:
    """One contrast: tissues, vessels, fat and what age adds are always as bright."""
    render = varied._render

    def same(
        rng: np.random.Generator,
        head: Head,
        tissues: Tissues,
        mni_mm: FloatArray,
        normal: np.random.Generator,
        disease: disease.Disease,
        modality: str,
    ) -> FloatArray:
        return render(Typical(rng.bit_generator), head, tissues, mni_mm, normal, disease, modality)

    varied._render = same


def _scanner() -> None:
    """Noise alone: no shading, slices, blur, gamma; heads may still be cut off."""

    def scan(
        rng: np.random.Generator, head: Head, signal: FloatArray
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        noise = float(np.exp(rng.uniform(np.log(0.01), np.log(0.09))))
        drawn = noise * rng.standard_normal((2, signal.size), dtype=np.float32)
        cut = varied._field_of_view(rng, head)
        inside = np.ones(signal.shape, bool) if cut is None else cut[0]
        stored = np.clip(np.rint(1000 * np.hypot(signal + drawn[0], drawn[1])), 1, 32767)
        result = np.zeros(head.mask.shape, np.int16)
        result[head.mask] = stored.astype(np.int16)
        return result, inside

    varied._scan = scan


def _lesions() -> None:
    """Masses with bright cores alone: no spots, infarcts or cavities."""
    disease.SHARES = (0.15, 0.85, 0.0, 0.0)
    disease._ALSO_SPOTS = 0.0
    disease._CORES = (0.0, 1.0, 0.0, 0.0)


STREAM: Final[dict[str, Callable[[], None]]] = {
    "anatomy": _anatomy,
    "contrast": _contrast,
    "scanner": _scanner,
    "lesions": _lesions,
}
"""What takes an ingredient out of the phantoms."""
NETWORK: Final[dict[str, str]] = {
    "place": "recipe.place=false",
    "mirror": "model.mirror=false",
    "neighbours": "recipe.neighbours_mm=[]",
    "brightness": "model.intensity_weight=0",
}
"""The setting that takes one out of the network."""
