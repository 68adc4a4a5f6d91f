"""``medrd export``: writes a model as ONNX, as a torch.export archive, or as a MONAI bundle.

The graph contains everything between slices and scores: repeating a single channel, the teacher's
normalisation, the networks, smoothing and the image score. The steps before it (brain,
normalisation over the whole scan, slices) and after it (back onto the scan's grid) follow from the
recipe in the interface file; docs/export.md describes them. A graph whose output differs from the
model's is not written.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medrd.errors import ModelError
from medrd.exporting.interface import Interface, exportable
from medrd.extras import require_extra
from medrd.files import atomic_path, read_json, write_json, write_text
from medrd.models.exportable import Exportable
from medrd.run.card import CARD_NAME, model_card
from medrd.run.device import choose_execution
from medrd.run.model_folder import Model, load_model
from medrd.run.output_folder import OutputFolder
from medrd.run.outputs import make_folder, remove
from medrd.run.predictor import Predictor
from medrd.run.progress import progress
from medrd.run.provenance import versions

logger = logging.getLogger("medrd.export")

Format = Literal["onnx", "pt2", "bundle"]
Run = Callable[..., tuple[NDArray[np.float32], NDArray[np.float32]]]

INTERFACE_NAME = "interface.json"
TOLERANCE = 1e-4
"""Largest accepted difference from the model's maps, as a share of their range."""
_COMPARED_IN: Final = "fp32"
"""Precision of the graph and of the model with which it is compared."""
_OPSET = 20
_FORMATS: tuple[Format, ...] = ("onnx", "pt2")
_TRACED, _CHECKED = 2, (1, 5)
"""Numbers of slices for tracing and for checking; they differ, to test the dynamic axis."""


def export(model: str | Path | Model | None, out: str | Path, *, format: Format = "onnx") -> Path:
    """Export a trained model for programs without medrd, or as a bundle that calls medrd.

    Parameters
    ----------
    model
        A run folder, its ``model/``, or a loaded model (a bundle needs the folder); None for the
        built-in one.
    out
        Folder for ``model.onnx`` or ``model.pt2`` with ``interface.json`` and the model card, or
        for a bundle's ``configs/``, ``models/`` and ``docs/``.

    Returns
    -------
    Path
        The graph's file, or the bundle's folder.

    Raises
    ------
    MissingExtraError
        If the packages for ONNX are needed and not installed.
    ModelError
        If the model cannot be used, it has no graph (``patchcore``), or the graph's maps differ
        from the model's in fp32 by more than :data:`TOLERANCE`.
    OutputError
        If ``out`` has other content.
    """
    if format == "onnx":
        require_extra("export", "--format onnx")
    out = Path(out)
    if format == "bundle":
        from medrd.exporting.bundle import write_bundle

        return write_bundle(model, out)
    loaded = model if isinstance(model, Model) else load_model(model)
    earlier = _earlier_export(out)
    OutputFolder(out).refuse_used(ours=earlier is not None, result="export")
    network, interface = exportable(loaded)
    with _quiet(), progress("exporting", 3) as advance:
        with _as_model_error(loaded.config.model.name):
            program = trace(network, interface)
        advance(note="traced")
        file = out / f"model.{format}"
        make_folder(out)
        # The graph is checked under a temporary name, so that only a correct one gets its name.
        with atomic_path(file) as temporary:
            with _as_model_error(loaded.config.model.name):
                run = (save_onnx if format == "onnx" else save_pt2)(program, interface, temporary)
            advance(note="written")
            apart = _largest_difference(run, loaded, interface)
            if not apart <= TOLERANCE:
                raise ModelError(
                    file,
                    expected=f"a graph whose maps are within {TOLERANCE:g} of the model's",
                    found=f"a difference of {apart:.2g}",
                    remedy="Try the other format, and report this with the model's config.",
                )
            # Another model's graph must not remain next to this one's interface. The interface
            # marks the folder as an export, so that a killed export can be run again.
            if earlier is not None and earlier != loaded.hash:
                for each in _FORMATS:
                    remove(out / f"model.{each}")
            write_json(out / INTERFACE_NAME, _described(loaded, interface, format, apart))
            write_text(out / CARD_NAME, _card(loaded))
        advance(note="checked")
    logger.info("%s differs from the model in %s by %.2g at most", file, _COMPARED_IN, apart)
    return file


def _card(model: Model) -> str:
    """The card in the model's folder, which may say more than one made here."""
    path = model.folder / CARD_NAME if model.folder else None
    if path is not None and path.is_file():
        return path.read_text(encoding="utf-8")
    return model_card(model.description, model.hash)


def _described(model: Model, interface: Interface, format: Format, apart: float) -> dict[str, Any]:
    threshold = model.calibration.threshold if model.calibration else None
    # Models of earlier versions have no "precision".
    calibrated_in = model.description.get("precision") if model.calibration else None
    return {
        "format": format,
        "model": {"name": model.config.model.name, "hash": model.hash},
        **interface.to_dict(),
        "largest_difference": apart,
        "compared_in": _COMPARED_IN,
        "calibrated_in": calibrated_in,
        "recipe": model.recipe.to_dict(),
        "scoring": model.config.scoring.to_dict(),
        "threshold": threshold,
        "versions": versions(),
        "notice": "Research use only; not a medical device.",
    }


def trace(network: Exportable, interface: Interface) -> torch.export.ExportedProgram:
    slices = torch.export.Dim("slices", min=1)
    with torch.no_grad():
        return torch.export.export(
            network,
            interface.example(_TRACED),
            dynamic_shapes={name: {0: slices} for name in interface.names},
            strict=False,
        )


def save_pt2(program: torch.export.ExportedProgram, interface: Interface, path: Path) -> Run:
    with path.open("wb") as written:
        torch.export.save(program, written)
    with path.open("rb") as read:
        module = torch.export.load(read).module()

    def run(*given: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        with torch.no_grad():
            maps, scores = module(*given)
        return maps.numpy(), scores.numpy()

    return run


def save_onnx(program: torch.export.ExportedProgram, interface: Interface, path: Path) -> Run:
    import onnxruntime

    made = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=_OPSET,
        input_names=interface.names,
        output_names=["map", "score"],
        verbose=False,
    )
    assert made is not None
    made.model.metadata_props["medrd"] = json.dumps(interface.to_dict())
    made.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(*given: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        feed = {name: x.numpy() for name, x in zip(interface.names, given, strict=True)}
        maps, scores = session.run(None, feed)
        return maps, scores

    return run


def _largest_difference(run: Run, model: Model, interface: Interface) -> float:
    """Largest difference from the model's output for the same slices, relative to its maps' range.

    Infinite if either output has NaN or infinite values.
    """
    predictor = Predictor(model.detector, model.scoring(), choose_execution("cpu", _COMPARED_IN))
    worst = 0.0
    for slices in _CHECKED:
        given = interface.example(slices, seed=slices)
        images, region, *places = (x.numpy() for x in given)
        native = predictor.maps(images, region, places[0].astype(np.float64) if places else None)
        for ours, theirs in zip(run(*given), native, strict=True):
            if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
                return float("inf")
            # The maps' range is the unit for scores too. Nearly constant maps have hardly a
            # range, and differ by rounding.
            unit = max(float(np.ptp(native[0])), 0.01 * float(np.abs(theirs).max()), 1e-12)
            worst = max(worst, float(np.abs(ours - theirs).max()) / unit)
    return worst


def _earlier_export(out: Path) -> str | None:
    """The hash of the model whose export is in a folder; None if there is no export."""
    match read_json(out / INTERFACE_NAME):
        case {"model": {"hash": str(hash)}}:
            return hash
    return None


@contextmanager
def _as_model_error(name: str) -> Iterator[None]:
    """Turn the many exceptions of PyTorch's exporters into one that a user can act on."""
    try:
        yield
    except (OSError, ModelError):
        raise
    except Exception as error:  # the exporters raise internal errors of many classes
        first_line = next(iter(str(error).strip().splitlines()), "")
        raise ModelError(
            name,
            expected="a model that PyTorch's exporter can convert to a graph",
            found=f"{type(error).__name__}: {first_line}",
            remedy="Try the other --format, or use medrd.load(...).predict(...).",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' own log messages and warnings."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "torch.fx")
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
