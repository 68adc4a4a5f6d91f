"""``medrd compare``: models × data sets × seeds, each cell an ordinary run, one table.

A cell's folder is what ``medrd train`` makes, with ``evaluation/`` inside. Cells that are
done are kept, one that fails is reported and the others go on, and a comparison that was
stopped goes on where it was, inside of a cell too.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from medrd.config.compare import (
    Cell,
    CompareConfig,
    PhantomConfig,
    TexturesConfig,
    cell_config,
)
from medrd.data.picture_layouts import find_pictures
from medrd.data.textures import write_texture_set
from medrd.errors import ConfigError, MedrdError
from medrd.metrics import Units, bootstrap, paired_differences, percentile_interval, ranks
from medrd.report.compare_figure import save_figure
from medrd.report.compare_table import results_document, results_markdown, results_rows
from medrd.report.comparison import CellResult, Comparison, Difference, Interval
from medrd.report.published import load_published
from medrd.volumes import write_json, write_text
from medrd.workflows.evaluate import evaluate, load_units
from medrd.workflows.interrupt import InterruptedRunError
from medrd.workflows.outputs import make_folder, remove
from medrd.workflows.phantom import make_phantoms
from medrd.workflows.tally import KEYS
from medrd.workflows.train import train

logger = logging.getLogger("medrd.compare")

COMPARED = ("image_auroc", "pixel_ap", "aupro")
"""Metrics whose differences between models are tested."""


@dataclass(frozen=True, eq=False)
class _Finished:
    """A cell with its numbers, and what a bootstrap needs of it by category."""

    result: CellResult
    units: dict[str, Units]


def compare(config: CompareConfig, out: str | Path) -> Comparison:
    """Train and evaluate every cell, and write the results.

    Parameters
    ----------
    config
        From :func:`medrd.config.compare.load_compare`.
    out
        Gets ``cells/``, ``results.csv``, ``results.json``, ``results.md`` and
        ``results.png``. What another call of the same comparison has finished is kept.

    Raises
    ------
    ConfigError
        A cell's config is not valid, or a data set is not there; nothing is started then.
    InterruptedRunError
        On SIGTERM or Ctrl-C, with the running cell saved.
    """
    out = Path(out)
    cells = plan(config, out)
    finished: list[_Finished] = []
    for number, cell in enumerate(cells, start=1):
        logger.info("[%d/%d] %s", number, len(cells), cell.name)
        finished.append(run_cell(cell, out))
    comparison = _gather(config, finished)
    write_text(out / "results.csv", _csv(results_rows(comparison)))
    published = load_published()
    document = results_document(comparison, statistics=ranks, published=published)
    write_json(out / "results.json", document)
    page = results_markdown(comparison, statistics=ranks, published=published)
    write_text(out / "results.md", page)
    save_figure(comparison, out / "results.png")
    return comparison


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plan(config: CompareConfig, out: Path) -> list[Cell]:
    """All cells in the order they run, every config validated; makes data that are generated."""
    make_folder(out)
    roots = {name: data.root or out / "data" / name for name, data in config.data_sets.items()}
    for name in config.data_sets:  # every config once, before any data are generated
        for model in config.models:
            cell_config(config, model, name, config.seeds[0], root=roots[name])
    for name, data in config.data_sets.items():
        if isinstance(data.generate, PhantomConfig):
            make_phantoms(roots[name], data.generate.subjects, seed=data.generate.seed)
        elif isinstance(data.generate, TexturesConfig):
            write_texture_set(roots[name], **data.generate.model_dump(exclude={"kind"}))
    cells = []
    categories = {name: _categories(config, name, root) for name, root in roots.items()}
    for seed in config.seeds:
        for name, data in config.data_sets.items():
            for category in categories[name]:
                for model, contender in config.models.items():
                    if name in contender.skip or data.domain in contender.skip:
                        continue
                    resolved = cell_config(
                        config, model, name, seed, root=roots[name], category=category
                    )
                    cells.append(Cell(model, name, data.domain, category, seed, resolved))
    return cells


def run_cell(cell: Cell, out: Path) -> _Finished:
    """Train, calibrate and evaluate one cell, or find that it is done.

    What goes wrong with it ends up in ``seedN.error.json`` beside it, whatever it is: a bug in
    one model must not cost the others their night.
    """
    folder = out / cell.folder
    error: str | None = None
    remove(folder.parent / f"{folder.name}.error.json")
    try:
        train(cell.config, folder, resume=True)
        if not _is_evaluated(folder):
            evaluate(folder, cell.config, folder / "evaluation", baseline=False)
    except InterruptedRunError as stopped:
        raise InterruptedRunError(
            f"stopped in {cell.name}; saved. Run the same comparison again to go on."
        ) from stopped
    except MedrdError as problem:
        error = str(problem)
        _report(folder, cell, problem.to_dict())
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
        _report(folder, cell, {"error": error, "traceback": traceback.format_exc()})
    return _read_cell(cell, folder, error)


def _report(folder: Path, cell: Cell, problem: dict[str, Any]) -> None:
    logger.error("%s failed: %s", cell.name, problem.get("found", problem["error"]))
    write_json(folder.parent / f"{folder.name}.error.json", {"cell": cell.name, **problem})


def _is_evaluated(folder: Path) -> bool:
    """Whether all of its test inputs are in its numbers; if not, they may be mended by now."""
    try:
        return bool(json.loads((folder / "evaluation" / "metrics.json").read_text())["complete"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read_cell(cell: Cell, folder: Path, error: str | None) -> _Finished:
    metrics: dict[str, Any] | None = None
    facts: dict[str, float | int | None] = {}
    units: dict[str, Units] = {}
    if error is None:
        metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
        run = json.loads((folder / "run.json").read_text())
        facts = {
            "training_seconds": run["training_seconds"],
            "images_per_s": metrics["images_per_s"],
            "parameters": run["parameters"]["all"],
            "trained_parameters": run["parameters"]["trained"],
            "model_mib": round((folder / "model" / "model.safetensors").stat().st_size / 2**20, 1),
            "test_units": metrics["counts"]["subjects"],
            "inputs_left_out": len(run["inputs_left_out"]),
        }
        for path in sorted((folder / "evaluation" / "units").glob("*.npz")):
            units[f"{cell.category or ''}/{path.stem}"] = load_units(path)
    result = CellResult(
        model=cell.model,
        data_set=cell.data_set,
        domain=cell.domain,
        category=cell.category,
        seed=cell.seed,
        metrics={key: metrics[key] for key in KEYS} if metrics else None,
        complete=bool(metrics and metrics["complete"]),
        error=error,
        facts=facts,
    )
    return _Finished(result, units)


def _categories(config: CompareConfig, name: str, root: Path) -> list[str | None]:
    """The categories that get a model each; [None] for one model on all there is."""
    data = config.data_sets[name]
    first = cell_config(config, next(iter(config.models)), name, config.seeds[0], root=root).data
    if not root.is_dir():
        raise ConfigError(
            root,
            expected=f"the folder of data set {name}",
            found="nothing there",
            remedy=f"Give it: --set data_sets.{name}.root=PATH.",
        )
    if first.kind != "pictures" or data.categories == "together":
        return [None]
    pictures = find_pictures(root, layout=first.layout, category=first.category)
    return [*sorted({picture.category for picture in pictures})]


def _gather(config: CompareConfig, finished: Sequence[_Finished]) -> Comparison:
    """Intervals and paired differences over all seeds and categories."""
    groups: dict[tuple[str, str], dict[tuple[int, str], Units]] = {}
    # A seed that lacks a category has no mean over them, and so no part in these either.
    broken = {(c.result.model, c.result.data_set, c.result.seed) for c in finished if not c.units}
    for cell in finished:
        place = (cell.result.model, cell.result.data_set)
        for part, units in cell.units.items():
            if (*place, cell.result.seed) not in broken:
                groups.setdefault(place, {})[cell.result.seed, part] = units
    intervals: dict[tuple[str, str], dict[str, Interval]] = {}
    for place, parts in groups.items():
        samples = bootstrap(list(parts.values()), resamples=config.resamples)
        limits = {key: percentile_interval(values) for key, values in samples.items()}
        intervals[place] = {
            key: Interval(low, high) for key, (low, high) in limits.items() if low == low
        }
    differences = []
    for data_set in config.data_sets:
        for first, second in combinations(config.models, 2):
            differences += _differences(groups, data_set, first, second, config.resamples)
    return Comparison(
        name=config.name,
        cells=[cell.result for cell in finished],
        intervals=intervals,
        differences=differences,
    )


def _differences(
    groups: dict[tuple[str, str], dict[tuple[int, str], Units]],
    data_set: str,
    first: str,
    second: str,
    resamples: int,
) -> list[Difference]:
    """On what both have done: the same seeds and categories, and the same test inputs."""
    a, b = groups.get((first, data_set), {}), groups.get((second, data_set), {})
    shared = [key for key in a if key in b and set(a[key].ids) == set(b[key].ids)]
    if not shared:
        return []
    found = paired_differences(
        [a[key] for key in shared], [b[key] for key in shared], resamples=resamples
    )
    return [
        Difference(
            data_set=data_set,
            metric=metric,
            model_a=first,
            model_b=second,
            mean=found[metric].mean,
            low=found[metric].low,
            high=found[metric].high,
            p_value=found[metric].p_value,
        )
        for metric in COMPARED
        if metric in found and found[metric].mean == found[metric].mean
    ]
