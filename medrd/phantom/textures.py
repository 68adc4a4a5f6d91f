"""Pictures of cloth and terrazzo with defects, generated, in MVTec AD's layout.

They replace a data set where none is available; results on them say nothing about real parts. Good
and bad pictures vary equally in light and noise, and no global statistic separates them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medrd.errors import OutputError
from medrd.files import atomic_path, write_text
from medrd.phantom.fields import FloatArray

_blurred = partial(ndimage.gaussian_filter, axes=(0, 1), mode="wrap")
_VERSION = 2  # raise it whenever the same seed gives other pixels
_VISIBLE = 8  # grey levels of 255 by which a channel must differ, for a defect to be seen

_WARP, _WEFT = np.array([[0.25, 0.36, 0.52], [0.72, 0.68, 0.58]])  # blue and unbleached threads
_CEMENT = (0.62, 0.60, 0.56)
_STONES = np.array([[0.86, 0.84, 0.80], [0.36, 0.34, 0.34], [0.62, 0.42, 0.33]])


def _smooth_noise(rng: np.random.Generator, size: int, sigma_px: float) -> FloatArray:
    """(size, size) with mean 0 and standard deviation 1."""
    field = _blurred(rng.standard_normal((size, size)), sigma_px)
    return (field - field.mean()) / field.std()


def _blob(rng: np.random.Generator, size: int) -> FloatArray:
    """(size, size, 1): 1 in a patch with a wavy edge, 0 outside."""
    y, x = np.indices((size, size)) - rng.uniform(0.25, 0.75, (2, 1, 1)) * size
    depth = 1 - np.hypot(y, x) / (size * rng.uniform(0.08, 0.16))
    return ((depth + 0.15 * _smooth_noise(rng, size, size / 24)) / 0.1).clip(0, 1)[..., None]


def weave(rng: np.random.Generator, size: int) -> FloatArray:
    """Plain-woven cloth, (size, size, 3); no two threads alike."""
    y, x = np.indices((size, size)) / rng.uniform(8.6, 9.4)  # pixels a thread
    across, along = x + 0.02 * y + rng.uniform(0, 2), y - 0.02 * x + rng.uniform(2, 4)
    i, j = (np.floor(u).astype(int) for u in (across, along))
    warp_tone, weft_tone = (rng.normal(1, 0.06, u.max() + 1)[u, None] for u in (i, j))
    warp = _WARP * warp_tone * (0.5 + 0.5 * np.abs(np.sin(np.pi * across)))[..., None]
    weft = _WEFT * weft_tone * (0.5 + 0.5 * np.abs(np.sin(np.pi * along)))[..., None]
    return np.where(((i + j) % 2 == 0)[..., None], warp, weft)


def grain(rng: np.random.Generator, size: int) -> FloatArray:
    """Terrazzo, (size, size, 3): chips of three kinds of stone in sandy cement."""
    fields = np.stack([_smooth_noise(rng, size, 4) for _ in _STONES])
    chips = np.where((fields.max(0) > 1)[..., None], _STONES[fields.argmax(0)], _CEMENT)
    return chips * (1 + 0.06 * _smooth_noise(rng, size, 1))[..., None]


def scratch(surface: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A straight groove, dark or bright, a quarter to a half of the picture long."""
    y, x = np.indices(surface.shape[:2]) - rng.uniform(0.3, 0.7, (2, 1, 1)) * len(surface)
    turned = (x + 1j * y) * np.exp(1j * rng.uniform(0, np.pi))
    inside = np.abs(turned.real) < len(surface) * rng.uniform(0.12, 0.25)
    groove = rng.choice([-0.4, 0.4]) * np.exp(-((turned.imag / 1.3) ** 2)) * inside
    return surface + groove[..., None]


def stain(surface: FloatArray, rng: np.random.Generator) -> FloatArray:
    """A liquid that dried: the texture shows through, darker or bleached."""
    amount = rng.uniform(0.35, 0.6) * _blob(rng, len(surface))
    return surface + amount * (rng.choice([0.0, 0.95]) - surface)


def wear(surface: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The texture rubbed off: its structure fades, its mean brightness stays."""
    return surface + _blob(rng, len(surface)) * (_blurred(surface, 5) - surface)


SURFACES = {"weave": weave, "grain": grain}
DEFECTS = {"scratch": scratch, "stain": stain, "wear": wear}


def make_picture(
    category: str, folder: str, index: int, *, seed: int = 0, size: int = 192
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture at ``<category>/<folder>/<index>.png``: a function of its arguments alone.

    Returns (size, size, 3) uint8, and the defect's mask, (size, size) uint8: 255 where it shows.
    """
    names = zlib.crc32(category.encode()), zlib.crc32(folder.encode())
    look, camera, flaw = np.random.default_rng([seed, *names, index]).spawn(3)
    surface = SURFACES[category](look, size)
    slopes = camera.uniform(-0.12, 0.12, (2, 1, 1)) * (np.indices((size, size)) / size - 0.5)
    light = (1 + slopes.sum(axis=0))[..., None] * np.exp(camera.normal(0, 0.05))
    noise = 0.01 * camera.standard_normal(surface.shape)

    def photograph(seen: FloatArray) -> FloatArray:
        return (_blurred(seen, 0.6) * light + noise).clip(0, 1) * 255

    photo = photograph(surface)
    clean, defect = np.rint(photo).astype(np.uint8), folder.rpartition("/")[2]
    if defect == "good":
        return clean, np.zeros((size, size), np.uint8)
    # A defect is no brighter or darker than anything else in its picture.
    flawed = photograph(DEFECTS[defect](surface, flaw)).clip(photo.min((0, 1)), photo.max((0, 1)))
    visible = (np.abs(flawed - photo) >= _VISIBLE).any(axis=-1)
    mask = visible | ndimage.binary_closing(visible, iterations=2)  # fills small holes
    picture = np.where(mask[..., None], np.rint(flawed).astype(np.uint8), clean)
    return picture, mask.astype(np.uint8) * 255


def write_texture_set(
    root: Path,
    *,
    categories: Sequence[str] = ("weave", "grain"),
    train: int = 40,
    test_good: int = 8,
    test_bad: int = 16,
    size: int = 192,
    seed: int = 0,
) -> Path:
    """Write generated pictures into ``root``, unless an earlier call has written them all.

    ``train``, ``test_good`` and ``test_bad`` count the pictures of each category, whose bad ones
    have the kinds of defect by turns. Raises OutputError if the folder holds another set.
    """
    record = json.dumps([_VERSION, seed, size, train, test_good, test_bad, *categories])
    finished = root / "textures.json"
    if finished.is_file() and (found := finished.read_text(encoding="utf-8")) != record:
        raise OutputError(finished, expected=record, found=found, remedy="Use another folder.")
    if finished.is_file():
        return root
    folders = ["train/good"] * train + ["test/good"] * test_good
    folders += [f"test/{list(DEFECTS)[i % len(DEFECTS)]}" for i in range(test_bad)]
    for category, (number, folder) in product(categories, enumerate(folders)):
        index = folders[:number].count(folder)
        picture, mask = make_picture(category, folder, index, seed=seed, size=size)
        files = {f"{folder}/{index:03d}.png": picture}
        if not folder.endswith("good"):
            files[folder.replace("test", "ground_truth") + f"/{index:03d}_mask.png"] = mask
        for name, array in files.items():
            with atomic_path(root / category / name) as temporary:
                Image.fromarray(array).save(temporary, format="PNG")
    write_text(finished, record)
    return root
