"""The notebooks run from top to bottom, and are stored without outputs."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from medrd.run.table import markdown_table

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
SMALL = """
    resamples=100
    data_sets.phantoms.root={brains}
    data_sets.phantoms.generate=null
    data_sets.phantoms.config.data.split.train=2
    data_sets.phantoms.config.data.healthy_margin=1
    data_sets.phantoms.config.recipe.size=64
    data_sets.phantoms.config.train.epochs=1
    data_sets.textures.root={textures}
    data_sets.textures.generate=null
    data_sets.textures.config.data.category=weave
    data_sets.textures.config.recipe.size=64
    data_sets.textures.config.train.epochs=1
"""


@pytest.fixture(scope="module")
def client() -> Iterator[NotebookClient]:
    """One kernel for all, where they lie: their imports take longer than most of their cells."""
    found = NotebookClient(
        nbformat.v4.new_notebook(),
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    )
    with found.setup_kernel():
        yield found


def run(client: NotebookClient, name: str, **environment: object) -> nbformat.NotebookNode:
    """Execute a notebook as Jupyter does, in a kernel that has forgotten the last one's names."""
    settings = {key: str(value) for key, value in environment.items()}
    begin = f"%reset -f\nimport os\nos.environ |= {settings!r}\ndel os"
    client.nb = nbformat.read(FOLDER / name, as_version=4)
    client.nb.cells.insert(0, nbformat.v4.new_code_cell(begin))
    client.execute(cleanup_kc=False)
    return client.nb


def shown(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """The outputs of its cells with this MIME type."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_stored_without_outputs(name: str) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_lesion_heatmaps(client: NotebookClient, tiny_root: Path, tmp_path: Path) -> None:
    for i in range(4):
        shutil.copytree(tiny_root / f"tiny_{i}", tmp_path / "brains" / f"tiny_{i}")
    notebook = run(
        client,
        "lesion_heatmaps.ipynb",
        MEDRD_NOTEBOOK_OUT=tmp_path,
        MEDRD_NOTEBOOK_SET="recipe.size=64 train.epochs=4",
    )
    assert len(shown(notebook, "image/png")) == 3
    assert len(shown(notebook, "application/vnd.jupyter.widget-view+json")) == 1
    table, dices = shown(notebook, "text/markdown")
    assert "| 1 " in table
    assert all(f"| {name} " in dices for name in ("intensity", "rdseg"))
    assert (tmp_path / "maps" / "report.html").is_file()


def test_cross_domain(
    client: NotebookClient, tiny_root: Path, texture_root: Path, tmp_path: Path
) -> None:
    """Run on the tests' small data, since generating full brains takes longer than the rest."""
    settings = SMALL.format(brains=tiny_root, textures=texture_root)
    notebook = run(
        client,
        "cross_domain.ipynb",
        MEDRD_NOTEBOOK_OUT=tmp_path,
        MEDRD_NOTEBOOK_SET=" ".join(settings.split()),
        MEDRD_CACHE=tmp_path / "cache",
    )
    assert len(shown(notebook, "image/png")) == 2
    results, table = shown(notebook, "text/markdown")
    assert "mine" not in results
    assert table.count("| mine ") == 2  # a brain and an industrial row of one's own


def test_cross_domain_draws_means_over_seeds(tmp_path: Path) -> None:
    """Its last cells by themselves, on a table of two seeds that lacks a number."""
    rows = "model,data_set,seed,image_auroc,pixel_ap,aupro"
    for seed, value in ((0, "0.25"), (1, "0.75")):
        rows += f"\na,brains,{seed},0.9,{value},9.87654e-05\na,tires,{seed},0.9,,0.5"
    (tmp_path / "results.csv").write_text(rows + "\n", encoding="utf-8")
    cells = nbformat.read(FOLDER / "cross_domain.ipynb", as_version=4).cells
    texts: list[str] = []
    names: dict[str, Any] = {
        "csv": csv,
        "math": math,
        "fmean": fmean,
        "plt": plt,
        "OUT": tmp_path,
        "markdown_table": markdown_table,
        "Markdown": str,
        "display": texts.append,
    }
    for cell in cells:
        if cell.id in ("cell-9", "cell-10"):
            exec(cell.source, names)
    (table,) = texts
    assert "9.88e-05" in table
    (line,) = names["ax"].lines
    np.testing.assert_array_equal(line.get_ydata(), [0.5, np.nan])
    plt.close(names["figure"])
