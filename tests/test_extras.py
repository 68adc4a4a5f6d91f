"""Without an extra, its verbs end with exit code 2 and name it; all else works."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dicoms import write_series

Medrd = Callable[..., Any]

OPTIONAL = ("ray", "pyarrow", "tensorboardX", "optuna", "onnx", "onnxscript", "onnxruntime")
OPTIONAL += ("SimpleITK", "dcm2niix", "highdicom", "pydicom", "deepbet", "imagecodecs")


def hide(*modules: str) -> str:
    """Python that makes modules look as if they were not installed."""
    return f"import sys; sys.modules.update(dict.fromkeys({modules}))"


HIDE_ALL = f"""
{hide(*OPTIONAL)}
for name in [name for name in sys.modules if name.split(".")[0] == "medrd"]:
    del sys.modules[name]
"""
"""Of medrd too nothing is left that was imported while they were there."""


@pytest.fixture
def inputs(tmp_path: Path, tiny_yaml: Path, search_raw: dict[str, Any]) -> Path:
    """A folder with what the verbs below are given."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    shutil.copy(tiny_yaml, folder / "tiny.yaml")
    (folder / "search.yaml").write_text(yaml.safe_dump(search_raw))
    root = yaml.safe_load(tiny_yaml.read_text("utf-8"))["data"]["root"]
    comparison = {
        "data_sets": {"tiny": {"domain": "brain", "root": root}},
        "models": {"intensity": {"config": {"model": {"name": "intensity"}}}},
    }
    (folder / "compare.yaml").write_text(yaml.safe_dump(comparison))
    write_series(folder / "dicom", np.ones((3, 8, 8)))
    return folder


@pytest.mark.parametrize(
    ("extra", "module", "argv"),
    [
        ("ray", "ray", "train tiny.yaml --workers 2"),
        ("ray", "ray", "predict RUN tiny.yaml --ray"),
        ("ray", "ray", "evaluate RUN tiny.yaml --ray"),
        ("ray", "ray", "compare compare.yaml --ray"),
        ("tune", "ray", "tune search.yaml"),
        ("tune", "optuna", "tune search.yaml"),
        ("export", "onnxruntime", "export RUN"),
        ("prepare", "SimpleITK", "prepare dicom"),
        ("dicom", "pydicom", "prepare dicom --modality flair"),
        ("dicom", "pydicom", "predict RUN dicom"),
        ("brain", "deepbet", "prepare dicom --brain deepbet"),
    ],
)
def test_a_verb_names_the_extra_that_it_lacks(
    medrd: Medrd, inputs: Path, tiny_run: Path, extra: str, module: str, argv: str
) -> None:
    verb, *rest = argv.replace("RUN", str(tiny_run)).split()
    paths = [inputs / word if (inputs / word).exists() else word for word in rest]
    out = inputs / "out"
    done = medrd(verb, *paths, "--out", out, prelude=hide(module))
    assert done.code == 2, done.stderr
    assert f"pip install 'medrd[{extra}]'" in done.stderr
    assert f"no {module}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_scans_are_predicted_without_any_extra(
    medrd: Medrd, tiny_run: Path, scan: Path, tmp_path: Path
) -> None:
    done = medrd("predict", tiny_run, scan, "--out", tmp_path / "out", prelude=HIDE_ALL)
    assert done.code == 0, done.stderr


# It subclasses Ray Tune's own search, and only the verb that needs it imports it.
SUBCLASSES = "medrd.tuning.searcher"


def test_every_module_but_one_can_be_imported_without_any_extra(medrd: Medrd) -> None:
    prelude = f"""
{HIDE_ALL}
import importlib, pkgutil, medrd
for module in pkgutil.walk_packages(medrd.__path__, "medrd."):
    if module.name not in ("medrd.__main__", "{SUBCLASSES}"):
        importlib.import_module(module.name)
"""
    done = medrd("--version", prelude=prelude)
    assert done.code == 0, done.stderr


def test_all_is_every_extra_but_the_one_with_a_gui_toolkit() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
        "project"
    ]
    extras = project["optional-dependencies"]
    (everything,) = extras.pop("all")
    named = everything.removeprefix("medrd[").removesuffix("]").split(",")
    assert set(named) == extras.keys() - {"brain"}
