"""Pictures of textured material with defects, generated, in MVTec AD's layout.

They show the industrial side of medrd where no data set is at hand; no result on them says
anything about real parts. A picture is a function of seed, category, folder and index alone,
so that sets of different sizes share their first pictures. Good and bad pictures differ in
nothing but the defect: both vary alike in pose, light, exposure and noise, and a defect's
pixels stay in the range of the picture around it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medrd.errors import ConfigError, OutputError
from medrd.files import atomic_path, write_json
from medrd.phantom.texture_defects import DEFECTS, outline
from medrd.phantom.texture_surfaces import SURFACES, FloatArray, plan_camera

# Raise it whenever the same seed gives other pixels: a set of another version is refused.
VERSION = 1

GOOD = "good"

_RECORD = "textures.json"
_LEAST_SIZE = 64  # pixels; below this a defect is as large as the picture
_LEAST_DEFECT_PX = 20
_ATTEMPTS = 20


@dataclass(frozen=True)
class TexturePicture:
    """A picture and what is wrong with it.

    Attributes
    ----------
    picture
        (H, W, 3) uint8.
    clean
        The same picture without the defect; it agrees with ``picture`` outside the mask.
    mask
        (H, W) bool, where the defect can be seen; False everywhere in a good one.
    """

    picture: NDArray[np.uint8]
    clean: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def make_texture(category: str, seed: int | Sequence[int], *, size: int = 192) -> FloatArray:
    """A photograph of the flawless material, (size, size, 3) float32 in [0, 1].

    Raises
    ------
    ConfigError
        An unknown category, or a size below 64.
    """
    _check([category], size)
    look, camera = np.random.default_rng(seed).spawn(2)
    return plan_camera(camera, size).photograph(SURFACES[category](look, size))


def make_picture(
    category: str, folder: str, index: int, *, seed: int = 0, size: int = 192
) -> TexturePicture:
    """The picture that belongs at ``<category>/<folder>/<index>.png``.

    Parameters
    ----------
    category
        ``weave`` or ``grain``.
    folder
        ``train/good``, ``test/good`` or ``test/<defect>``, a key of
        :data:`medrd.phantom.texture_defects.DEFECTS`.

    Raises
    ------
    ConfigError
        An unknown category or defect, or a size below 64.
    """
    defect = folder.rpartition("/")[2]
    _check([category], size)
    if defect not in (GOOD, *DEFECTS):
        raise ConfigError(
            "defect",
            expected=f"{GOOD}, or one of {', '.join(DEFECTS)}",
            found=defect,
            remedy="Name another.",
        )
    # A stream for each stage: a change in one leaves the others' draws alone.
    names = [zlib.crc32(name.encode()) for name in (category, folder)]
    look, optics, flaws = np.random.default_rng([seed, *names, index]).spawn(3)
    surface = SURFACES[category](look, size)
    camera = plan_camera(optics, size)
    photo = camera.photograph(surface)
    clean = _quantise(photo)
    if defect == GOOD:
        return TexturePicture(clean, clean, np.zeros((size, size), bool))
    # A defect is no brighter or darker than anything else in its picture.
    low, high = photo.min(axis=(0, 1)), photo.max(axis=(0, 1))
    strength = float(flaws.uniform())
    for flaw in flaws.spawn(_ATTEMPTS):
        flawed = camera.photograph(DEFECTS[defect](surface, flaw, strength))
        marred = _quantise(np.clip(flawed, low, high))
        mask = outline(clean, marred)
        if mask.sum() >= _LEAST_DEFECT_PX:
            return TexturePicture(np.where(mask[..., None], marred, clean), clean, mask)
    raise AssertionError(f"no visible {defect} on {category} in {_ATTEMPTS} attempts")


def write_texture_set(
    root: Path,
    *,
    categories: Sequence[str] = ("weave", "grain"),
    train: int = 40,
    test_good: int = 8,
    test_bad: int = 16,
    size: int = 192,
    seed: int = 0,
    workers: int = 2,
    on_done: Callable[[str], None] | None = None,
) -> Path:
    """Write textured pictures in MVTec AD's layout; files that are there are kept.

    Parameters
    ----------
    root
        The data set's folder, made if need be; gets ``weave/train/good/000.png``,
        ``weave/test/scratch/000.png``, ``weave/ground_truth/scratch/000_mask.png`` and so on.
    categories
        Out of ``weave`` and ``grain``.
    train, test_good, test_bad
        Pictures a category. The bad ones take the kinds of defect by turns.
    size
        Pixels a side.
    seed
        Which set.
    workers
        Threads.
    on_done
        Called with each picture's category when it is there.

    Returns
    -------
    ``root``.

    Raises
    ------
    ConfigError
        A number out of range, or an unknown category.
    OutputError
        The folder cannot be written to, or holds another set.
    """
    _check(categories, size)
    least = {"train": (train, 1), "test_good": (test_good, 0), "test_bad": (test_bad, 0)}
    for name, (value, minimum) in {**least, "seed": (seed, 0), "workers": (workers, 1)}.items():
        if value < minimum:
            raise ConfigError(
                name,
                expected=f"{minimum} or more",
                found=str(value),
                remedy=f"Give a whole number from {minimum}.",
            )
    counts = {"train": train, "test_good": test_good, "test_bad": test_bad}
    _claim(root, categories, {"version": VERSION, "seed": seed, "size": size, **counts})
    jobs = [
        (category, folder, index)
        for category in categories
        for folder, index in _places(train, test_good, test_bad)
    ]
    # Threads: NumPy, SciPy and the PNG encoder work outside Python's lock, and each file
    # waits for the disk.
    with ThreadPoolExecutor(workers) as pool:
        written = pool.map(lambda job: _write(root, *job, seed=seed, size=size), jobs)
        for (category, _, _), _ in zip(jobs, written, strict=True):
            if on_done is not None:
                on_done(category)
    return root


def _places(train: int, test_good: int, test_bad: int) -> Iterator[tuple[str, int]]:
    """Folder and index of every picture of a category."""
    yield from (("train/good", index) for index in range(train))
    yield from (("test/good", index) for index in range(test_good))
    kinds = list(DEFECTS)
    for number in range(test_bad):
        yield f"test/{kinds[number % len(kinds)]}", number // len(kinds)


def _write(root: Path, category: str, folder: str, index: int, *, seed: int, size: int) -> None:
    """Write one picture, and its mask if it is a bad one, unless they are there."""
    path = root / category / folder / f"{index:03d}.png"
    defect = path.parent.name
    mask_path = root / category / "ground_truth" / defect / f"{index:03d}_mask.png"
    if path.is_file() and (defect == GOOD or mask_path.is_file()):
        return
    made = make_picture(category, folder, index, seed=seed, size=size)
    if defect != GOOD:
        _save(mask_path, made.mask.astype(np.uint8) * 255)
    _save(path, made.picture)


def _save(path: Path, array: NDArray[np.uint8]) -> None:
    with atomic_path(path) as temporary:
        # Noise hardly compresses: the fastest level costs 2 % in size.
        Image.fromarray(array).save(temporary, format="PNG", compress_level=1)


def _claim(root: Path, categories: Sequence[str], record: dict[str, int]) -> None:
    """Say in ``root`` which set it holds; raise if it holds another, or files of others."""
    path = root / _RECORD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
        foreign = [name for name in categories if (root / name).exists()]
        if foreign:
            raise OutputError(
                root / foreign[0],
                expected="nothing, or a generated set that medrd can go on with",
                found=f"a folder without a readable {_RECORD} beside it",
                remedy="Choose another folder.",
            ) from None
    if found is None:
        write_json(path, record)
    elif found != record:
        raise OutputError(
            path, expected=f"{record}", found=f"{found}", remedy="Choose another folder."
        )


def _quantise(photo: FloatArray) -> NDArray[np.uint8]:
    return np.rint(photo * 255).astype(np.uint8)


def _check(categories: Sequence[str], size: int) -> None:
    unknown = [name for name in categories if name not in SURFACES]
    if unknown or not categories:
        raise ConfigError(
            "category",
            expected=f"out of {', '.join(SURFACES)}",
            found=unknown[0] if unknown else "none",
            remedy="Name one of these.",
        )
    if size < _LEAST_SIZE:
        raise ConfigError(
            "size",
            expected=f"{_LEAST_SIZE} pixels or more",
            found=str(size),
            remedy="Below this a defect is as large as the picture.",
        )
