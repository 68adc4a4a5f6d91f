"""Export of a model as a MONAI bundle, which ``monai.bundle`` can load, verify and run.

The bundle contains the model folder and needs medrd to be installed: its ``run`` calls
``medrd predict``, so scans are read, predicted and written in exactly the same way.

Source: MONAI Bundle Specification, https://docs.monai.io/en/stable/mb_specification.html.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from torch import Tensor, nn

from medrd.errors import InputError, ModelError
from medrd.exporting.interface import exportable
from medrd.files import atomic_path, read_json, write_json
from medrd.prediction.predict import predict
from medrd.run.card import CARD_NAME
from medrd.run.model_folder import Model, load_model
from medrd.run.output_folder import OutputFolder
from medrd.run.outputs import make_folder

_MODEL, _METADATA = "models/medrd", "configs/metadata.json"
_FILES = ("model.json", "model.safetensors", CARD_NAME)


class BundleNetwork(nn.Module):
    """Slices (N, C, H, W) in [0, 1] -> maps (N, 1, H, W), smoothed in the plane.

    MONAI's networks take one tensor and return one, so every pixel that is not 0 counts as brain.

    Parameters
    ----------
    folder
        The model folder in the bundle.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.network, interface = exportable(load_model(folder), across=False)
        self.modalities = len(interface.layout.modalities)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the maps."""
        maps: Tensor = self.network(images, images[:, : self.modalities].amax(1) > 0)[0]
        return maps[:, None]


def write_bundle(model: str | Path | Model | None, out: Path) -> Path:
    """Write a bundle of a model folder.

    Raises
    ------
    ModelError
        If ``model`` is a loaded model instead of its folder, or it cannot be exported.
    OutputError
        If ``out`` has other content.
    """
    if isinstance(model, Model):
        raise ModelError(
            "model",
            expected="the path of a run or model folder",
            found="a model in memory",
            remedy="A bundle contains the folder's files: give its path.",
        )
    loaded = load_model(model)
    _, interface = exportable(loaded, across=False)
    metadata = out / _METADATA
    OutputFolder(out).refuse_used(ours=_is_own(out), result="bundle")
    source = loaded.folder
    assert source is not None  # it was loaded from there
    make_folder(out / _MODEL)
    for name in _FILES:
        if (source / name).is_file():
            with atomic_path(out / _MODEL / name) as temporary:
                shutil.copyfile(source / name, temporary)
    # The specification also requires the weights of network_def under this name.
    with atomic_path(out / "models" / "model.pt") as temporary:
        torch.save(BundleNetwork(str(out / _MODEL)).state_dict(), temporary)
    if (source / CARD_NAME).is_file():
        with atomic_path(out / "docs" / "README.md") as temporary:
            shutil.copyfile(source / CARD_NAME, temporary)
    write_json(out / "configs" / "inference.json", _inference())
    write_json(metadata, _metadata(loaded, interface.channels))  # last: its presence means finished
    return out


def predict_all(model: str, inputs: Sequence[str], out: str, device: str) -> None:
    """Run ``medrd predict``; this is the bundle's ``run``.

    Raises
    ------
    InputError
        If an input failed: ``monai.bundle run`` can report a failure only as an exception.
    """
    errors = predict(model, [Path(path) for path in inputs], out, device=device).errors
    if errors:
        raise InputError(
            ", ".join(inputs),
            expected="inputs that can be predicted",
            found=f"{len(errors)} failed inputs, the first with: {errors[0]}",
            remedy=f"See errors.json in {out}; the other inputs are done.",
        )


def _is_own(out: Path) -> bool:
    """True if an earlier export made the folder, even if it did not finish."""
    if not (out / _METADATA).exists():
        return (out / _MODEL / "model.json").is_file()
    match read_json(out / _METADATA):
        case {"required_packages_version": {"medrd": _}}:
            return True
    return False


def _inference() -> dict[str, Any]:
    return {
        "imports": ["$from medrd.exporting.bundle import predict_all"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "auto",
        "model_dir": f"$@bundle_root + '/{_MODEL}'",
        "network_def": {
            "_target_": "medrd.exporting.bundle.BundleNetwork",
            "folder": "@model_dir",
        },
        "run": ["$predict_all(@model_dir, [@dataset_dir], @output_dir, @device)"],
    }


def _metadata(model: Model, channels: list[str]) -> dict[str, Any]:
    recipe = model.recipe
    volumes = model.kind.volumetric
    size = [recipe.size, recipe.size]
    return {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/"
        "0.8.1/meta_schema_20240725.json",
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by medrd {version('medrd')}"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"medrd": version("medrd")},
        "supported_apps": {},
        "name": f"medrd {model.config.model.name}",
        "task": "anomaly detection in brain MRI" if volumes else "anomaly detection in pictures",
        "description": "Anomaly maps by medrd; see docs/README.md. Research use only.",
        "authors": "medrd",
        "copyright": "see the project's LICENSE; the weights are their trainer's",
        "intended_use": "Research use only; not a medical device.",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude" if volumes else "RGB",
                    "modality": "MR" if volumes else "n/a",
                    "num_channels": len(channels),
                    "spatial_shape": size,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": False,
                    "channel_def": {str(i): name for i, name in enumerate(channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "anomaly score",
                    "num_channels": 1,
                    "spatial_shape": size,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": False,
                    "channel_def": {"0": "anomaly score"},
                }
            },
        },
    }
