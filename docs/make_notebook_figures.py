"""Run the notebooks as they stand, on simulated data, and keep their figures for docs/notebooks.md.

python docs/make_notebook_figures.py                    # both: minutes
python docs/make_notebook_figures.py lesion_heatmaps
"""

from __future__ import annotations

import argparse
import base64
import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent
NOTEBOOKS = DOCS.parent / "notebooks"
NAMES = ("lesion_heatmaps", "cross_domain")


def figures_of(name: str, out: Path) -> list[bytes]:
    """What the cells of a notebook show as PNG; its files go to ``out``."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOKS)}}
    os.environ["MEDRD_NOTEBOOK_OUT"] = str(out)
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources).execute()
    shown = (
        output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    )
    return [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]


def main() -> None:
    """Write ``figures/<notebook>_<number>.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(NAMES))
    for name in parser.parse_args().names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            for number, content in enumerate(figures_of(name, Path(folder)), start=1):
                path = DOCS / "figures" / f"{name}_{number}.png"
                path.write_bytes(content)
                print(path)


if __name__ == "__main__":
    main()
