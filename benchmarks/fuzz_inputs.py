"""The inputs of ``benchmarks/fuzz.py``: sound files, what is done to them, and who reads them."""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tifffile
import torch
from PIL import Image
from safetensors.torch import save

import medrd
from medrd.comparison.config import load_compare
from medrd.config import RecipeConfig, load_config, make_config
from medrd.data.brains.kind import Brains
from medrd.files import file_hash
from medrd.images.picture import read_picture, read_picture_mask
from medrd.images.read import read_volume
from medrd.images.volume import Volume, volume_from_array
from medrd.report import write_report
from medrd.run.model_folder import make_detector, save_model
from medrd.run.weights_file import read_state
from medrd.tuning.config import load_tune

_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_SHAPE = (20, 18, 12)
_HEADER = 600
"""Bytes at the start of a file that are hit more often than the rest."""
_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1)
_REALS = (0.0, -0.0, 1e-45, 1e-10, 1.0, -1.0, 1e10, 1e38, 1e300, math.inf, -math.inf, math.nan)
_WORDS = (
    *("0", "1", "-1", "2", "1e400", "nan", "inf", "null", "true", "~", "''", "[]", "{}", "[1]"),
    *("{a: 1}", "-", ":", "?", "!", "!!python/object:os.system", "&", "*", "&a", "[*a]", "../../x"),
    *("!!binary", "!!timestamp", "2020-01-01", "0x10", "1_000", "/dev/zero", "9" * 20),
)
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, 10**30, "", "x", "../x", [], [1], {}, {"a": 1}, [None], [[0.0]], 0.5,
)  # fmt: skip


@dataclass(frozen=True)
class Seeds:
    """Sound files that inputs are made from.

    Attributes
    ----------
    files
        Content by name; the ending says what reads it.
    run
        A run folder: its files by their path in it.
    scan
        A volume that the run's model can predict.
    """

    files: Mapping[str, bytes]
    run: Mapping[str, bytes]
    scan: Volume


Read = Callable[[Seeds, np.random.Generator, Path], None]
"""(seeds, random numbers, an empty folder): makes an input there and reads it."""


def make_seeds(folder: Path) -> Seeds:
    """Sound files of all kinds, written into a folder and read back."""
    rng = np.random.default_rng(0)
    grid = np.indices(_SHAPE).T - (np.array(_SHAPE) - 1) / 2
    inside = ((grid / (np.array(_SHAPE) * 0.4)) ** 2).sum(-1).T < 1
    voxels = np.where(inside, rng.integers(100, 500, _SHAPE), 0).astype(np.int16)
    affine = np.diag([-8.0, -8.0, 8.0, 1.0])
    files: dict[str, bytes] = {}
    files["one.nii"] = nib.Nifti1Image(voxels, affine).to_bytes()
    files["two.nii"] = nib.Nifti2Image(voxels, affine).to_bytes()
    files["float.nii"] = nib.Nifti1Image(voxels.astype(np.float32), affine).to_bytes()
    files["x.mgh"] = nib.MGHImage(voxels, affine).to_bytes()
    place = "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 5 6 7\nElementSpacing = 8 8 8\n"
    mha = f"ObjectType = Image\nNDims = 3\nBinaryData = True\n{place}DimSize = 20 18 12\n"
    mha += "ElementType = MET_SHORT\n"
    raw = voxels.tobytes(order="F")
    files["x.mha"] = f"{mha}ElementDataFile = LOCAL\n".encode() + raw
    packed = f"{mha}CompressedData = True\nElementDataFile = LOCAL\n".encode()
    files["packed.mha"] = packed + zlib.compress(raw)
    nrrd = "NRRD0005\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 20 18 12\n"
    nrrd += "space directions: (8,0,0) (0,8,0) (0,0,8)\nkinds: domain domain domain\n"
    nrrd += "endian: little\nspace origin: (5,6,7)\n"
    files["x.nrrd"] = f"{nrrd}encoding: raw\n\n".encode() + raw
    files["packed.nrrd"] = f"{nrrd}encoding: gzip\n\n".encode() + gzip.compress(raw, mtime=0)
    files |= _pictures(rng)
    files |= {f"{i}.dcm": content for i, content in enumerate(_slices(voxels))}
    tensors = {"conv1.weight": torch.zeros(4, 3, 3, 3), "bn1.bias": torch.ones(4)}
    files["x.safetensors"] = save(tensors)
    torch.save({"model": tensors, "epoch": 3}, folder / "x.pth")
    files["x.pth"] = (folder / "x.pth").read_bytes()
    files |= {
        f"{path.parent.name}.{path.name}": path.read_bytes()
        for path in sorted(_CONFIGS.glob("*/*.yaml"))
        if path.parent.name != "cluster"
    }
    return Seeds(files, _run_folder(folder / "run"), volume_from_array(voxels, affine))


def _pictures(rng: np.random.Generator) -> dict[str, bytes]:
    files = {}
    colour = rng.integers(0, 256, (13, 17, 3), np.uint8)
    for name, kind in (("x.png", "PNG"), ("x.jpg", "JPEG"), ("x.bmp", "BMP"), ("x.webp", "WEBP")):
        file = io.BytesIO()
        Image.fromarray(colour).save(file, kind)
        files[name] = file.getvalue()
    file = io.BytesIO()
    Image.fromarray(colour[..., 0]).quantize(8).save(file, "PNG")
    files["palette.png"] = file.getvalue()
    deep = rng.integers(0, 65536, (13, 17), np.uint16)
    rows = b"".join(b"\0" + row.tobytes() for row in deep.astype(">u2"))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 17, 13, 16, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    files["deep.png"] = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    for name, array, options in (
        ("x.tif", colour, {"photometric": "rgb"}),
        ("deep.tif", deep, {}),
        ("float.tif", (deep / 65535).astype(np.float32), {}),
        ("packed.tif", deep, {"compression": "zlib"}),
        ("tiles.tif", np.tile(deep, (3, 3)), {"tile": (16, 16), "compression": "lzw"}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, array, metadata=None, **options)
        files[name] = file.getvalue()
    return files


def _slices(voxels: np.ndarray) -> list[bytes]:
    """Four slices of an MR series, explicit little-endian."""

    def element(group: int, number: int, vr: str, value: bytes | str) -> bytes:
        data = value.encode() if isinstance(value, str) else value
        data += (b"\0" if vr in ("UI", "OW", "OB") else b" ") * (len(data) % 2)
        head = struct.pack("<HH", group, number) + vr.encode()
        if vr in ("OW", "OB"):
            return head + b"\0\0" + struct.pack("<I", len(data)) + data
        return head + struct.pack("<H", len(data)) + data

    mr, root = "1.2.840.10008.5.1.4.1.1.4", "1.2.826.0.1.3680043.8.498."
    made = []
    for i in range(4):
        meta = element(2, 1, "OB", b"\0\1") + element(2, 2, "UI", mr)
        meta += element(2, 3, "UI", f"{root}9.{i}") + element(2, 0x10, "UI", "1.2.840.10008.1.2.1")
        body = element(8, 8, "CS", "ORIGINAL\\PRIMARY\\M") + element(8, 0x16, "UI", mr)
        body += element(8, 0x18, "UI", f"{root}9.{i}") + element(8, 0x60, "CS", "MR")
        body += element(0x18, 0x50, "DS", "8") + element(0x20, 0xD, "UI", f"{root}1")
        body += element(0x20, 0xE, "UI", f"{root}2") + element(0x20, 0x11, "IS", "1")
        body += element(0x20, 0x13, "IS", str(i + 1))
        body += element(0x20, 0x32, "DS", f"-70\\-80\\{8 * i}")
        body += element(0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0") + element(
            0x20, 0x52, "UI", f"{root}3"
        )
        body += element(0x28, 2, "US", b"\1\0") + element(0x28, 4, "CS", "MONOCHROME2")
        body += element(0x28, 0x10, "US", struct.pack("<H", 18))
        body += element(0x28, 0x11, "US", struct.pack("<H", 20)) + element(0x28, 0x30, "DS", "8\\8")
        for number, value in ((0x100, 16), (0x101, 16), (0x102, 15), (0x103, 0)):
            body += element(0x28, number, "US", struct.pack("<H", value))
        body += element(0x7FE0, 0x10, "OW", voxels[:, :, 3 + i].astype("<u2").tobytes(order="F"))
        group = element(2, 0, "UL", struct.pack("<I", len(meta)))
        made.append(bytes(128) + b"DICM" + group + meta + body)
    return made


def _run_folder(folder: Path) -> dict[str, bytes]:
    """A finished run of the untrained baseline, and what a trained one has beside it."""
    recipe = {"size": 32, "min_brain_mm2": 500, "normalise": "rank"}
    config = make_config({"model": {"name": "intensity"}, "recipe": recipe})
    save_model(
        folder / "model",
        make_detector(config),
        config,
        calibration=None,
        training={
            "subjects": {"a": "0"},
            "calibration_subjects": {},
            "split_hash": "0",
            "seed": 0,
            "slices": 9,
            "data_hash": "0",
        },
    )
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    line = {"epoch": 1, "loss": 0.5, "losses": {"distil": 0.5}, "slices_per_s": 8.0}
    lines = [json.dumps(line | {"epoch": i, "seconds": 5.0, "wait_share": 0.1}) for i in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    description: dict[str, Any] = {
        "versions": {"medrd": "0", "torch": "2"}, "git": None, "device": "cpu",
        "precision": "fp32", "threads": 1, "workers": None, "seed": 0, "slices": 9,
        "inputs_left_out": [], "parameters": {"all": 0, "trained": 0, "kept": 0, "remembered": 0},
        "epochs": 2, "training_seconds": 1.0, "session_seconds": 2.0, "peak_memory_mib": 100.0,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(description), encoding="utf-8")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- What is done to them ---


def mutated(content: bytes, rng: np.random.Generator, *, text: bool = False) -> bytes:
    """One to four changes: bytes, numbers, words, blocks cut, doubled or moved."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        changed = _changed(changed, rng, text=text)
    return bytes(changed)


def _changed(content: bytearray, rng: np.random.Generator, *, text: bool) -> bytearray:
    if not content:
        return bytearray(rng.bytes(8))
    end = len(content) if rng.random() < 0.4 else min(len(content), _HEADER)
    at = int(rng.integers(end))
    size = int(rng.choice([1, 2, 4, 8, 64, 1000]))
    kind = int(rng.integers(9))
    if text and kind < 5:
        return _reworded(content, rng)
    if kind == 0:
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        content[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    elif kind == 2:
        number = int(rng.choice(np.array(_NUMBERS)))
        width, order = int(rng.choice([2, 4, 8])), str(rng.choice(["little", "big"]))
        packed = (number % (1 << 8 * width)).to_bytes(width, order)  # type: ignore[arg-type]
        content[at : at + width] = packed
    elif kind == 3:
        form = str(rng.choice(["<f", ">f", "<d"]))
        real = float(np.float32(rng.choice(_REALS))) if "f" in form else float(rng.choice(_REALS))
        packed = struct.pack(form, real)
        content[at : at + len(packed)] = packed
    elif kind == 4:
        content[at : at + size] = rng.bytes(size)
    elif kind == 5:
        del content[at : at + size]
    elif kind == 6:
        content[at:at] = content[at : at + size]
    elif kind == 7:
        del content[int(rng.integers(len(content))) :]
    else:
        other = int(rng.integers(len(content)))
        content[at : at + size] = content[other : other + size]
    return content


def _reworded(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Another word or number in the place of one, or a line moved, doubled or indented."""
    words = list(re.finditer(rb"[\w.+-]+", bytes(content[:100_000])))
    lines = bytes(content).split(b"\n")
    if words and rng.random() < 0.7:
        word = words[int(rng.integers(len(words)))]
        new = str(rng.choice(_WORDS)).encode()
        return bytearray(bytes(content[: word.start()]) + new + bytes(content[word.end() :]))
    first, second = (int(rng.integers(len(lines))) for _ in range(2))
    kind = int(rng.integers(4))
    if kind == 0:
        lines[first] = b"  " + lines[first]
    elif kind == 1:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 2:
        lines.insert(first, lines[second])
    else:
        lines[first] = lines[first].strip()
    return bytearray(b"\n".join(lines))


def mutated_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Values of other types, keys that are missing; sound JSON in most cases."""
    if rng.random() < 0.2:
        return mutated(content, rng, text=True)
    root = [json.loads(content)]
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(root))
        node, key = places[int(rng.integers(len(places)))]
        if rng.random() < 0.25 and node is not root:
            del node[key]
        else:
            node[key] = _VALUES[int(rng.integers(len(_VALUES)))]
    return json.dumps(root[0]).encode()


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within."""
    keys: list[Any] = []
    if isinstance(node, dict):
        keys = list(node)
    elif isinstance(node, list):
        keys = list(range(len(node)))
    return [(node, key) for key in keys] + [p for key in keys for p in _places(node[key])]


# --- Who reads them ---


def _pick(seeds: Seeds, rng: np.random.Generator, *endings: str) -> tuple[str, bytes]:
    names = sorted(name for name in seeds.files if name.endswith(endings))
    name = names[int(rng.integers(len(names)))]
    return name, seeds.files[name]


def _nifti(seeds: Seeds, rng: np.random.Generator, folder: Path) -> None:
    """Header or body, plain or compressed; or the stream of gzip itself."""
    name, content = _pick(seeds, rng, ".nii")
    if rng.random() < 0.3:
        content = mutated(gzip.compress(content, 1, mtime=0), rng)
        name += ".gz"
    else:
        content = mutated(content, rng)
        if rng.random() < 0.5:
            content, name = gzip.compress(content, 1, mtime=0), f"{name}.gz"
    _read_scan(folder, name, content)


def _other_scans(seeds: Seeds, rng: np.random.Generator, folder: Path) -> None:
    name, content = _pick(seeds, rng, ".mgh", ".mha", ".nrrd")
    content = mutated(content, rng, text=not name.endswith(".mgh") and rng.random() < 0.7)
    if name.endswith(".mgh") and rng.random() < 0.5:
        content, name = gzip.compress(content, 1, mtime=0), "x.mgz"
    _read_scan(folder, name, content)


def _read_scan(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.write_bytes(content)
    _prepare(medrd.read(path))


def _prepare(volume: Any) -> None:
    Brains(RecipeConfig(size=32, min_brain_mm2=500)).prepare_slices(volume)


def _dicom(seeds: Seeds, rng: np.random.Generator, folder: Path) -> None:
    """One slice of a series, or all in the same way."""
    names = sorted(name for name in seeds.files if name.endswith(".dcm"))
    hit = int(rng.integers(len(names) + 1))
    state = rng.bit_generator.state
    for i, name in enumerate(names):
        content = seeds.files[name]
        if hit in (i, len(names)):
            rng.bit_generator.state = state
            content = mutated(content, rng)
        (folder / name).write_bytes(content)
    _prepare(read_volume(folder))


def _picture(seeds: Seeds, rng: np.random.Generator, folder: Path) -> None:
    name, content = _pick(seeds, rng, ".png", ".tif", ".jpg", ".bmp", ".webp")
    path = folder / name
    path.write_bytes(
        _resealed(mutated(content, rng)) if rng.random() < 0.5 else mutated(content, rng)
    )
    if rng.random() < 0.3:
        read_picture_mask([path], shape=(13, 17))
    else:
        read_picture(path, value_range=(0, 1) if rng.random() < 0.3 else None)


def _resealed(content: bytes) -> bytes:
    """A PNG whose chunks have the right checksums again, so that what is in them is read."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    made, at = content[:8], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + size]
        made += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return made


def _config(seeds: Seeds, rng: np.random.Generator, folder: Path) -> None:
    name, content = _pick(seeds, rng, ".yaml")
    path = folder / "x.yaml"
    path.write_bytes(mutated(content, rng, text=rng.random() < 0.9))
    overrides = [] if rng.random() < 0.7 else [f"{rng.choice(_WORDS)}={rng.choice(_WORDS)}"]
    load = {"tune": load_tune, "compare": load_compare}.get(name.split(".")[0], load_config)
    load(path, overrides)


def _weights(seeds: Seeds, rng: np.random.Generator, folder: Path) -> None:
    name, content = _pick(seeds, rng, ".safetensors", ".pth")
    path = folder / name
    path.write_bytes(mutated(content, rng))
    read_state(path)


def _run(seeds: Seeds, rng: np.random.Generator, folder: Path) -> None:
    """A file of a run folder; weights with and without the hash that belongs to them."""
    hit = sorted(seeds.run)[int(rng.integers(len(seeds.run)))]
    for name, content in seeds.run.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == hit:
            as_json = name.endswith(".json")
            text = not name.endswith(".safetensors")
            content = mutated_json(content, rng) if as_json else mutated(content, rng, text=text)
        path.write_bytes(content)
    described = folder / "model" / "model.json"
    if hit.endswith(".safetensors") and rng.random() < 0.7:
        written = json.loads(described.read_bytes())
        written["weights_sha256"] = file_hash(folder / "model" / "model.safetensors")
        described.write_text(json.dumps(written), encoding="utf-8")
    if hit.startswith("model"):
        medrd.load(folder).predict(seeds.scan)
    else:
        write_report(folder)


KINDS: dict[str, Read] = {
    "nifti": _nifti,
    "other scans": _other_scans,
    "dicom": _dicom,
    "pictures": _picture,
    "configs": _config,
    "weights": _weights,
    "run folders": _run,
}
"""Each with what makes an input of it and reads it."""
