"""``medrd compare``: models × data sets × seeds, each cell an ordinary run, one table.

A cell's folder is what ``medrd train`` makes, with ``evaluation/`` inside. Finished cells are
kept. A cell that fails is reported, and the others still run. A comparison that was stopped
continues where it was, also in the middle of a cell.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Sequence
from contextlib import closing
from itertools import combinations, product
from pathlib import Path
from typing import Any

from medrd.comparison.cells import CellWork, Finished
from medrd.comparison.comparison import Comparison, Difference, Interval
from medrd.comparison.config import (
    Cell,
    CompareConfig,
    PhantomConfig,
    TexturesConfig,
    cell_config,
)
from medrd.comparison.figure import save_figure
from medrd.comparison.inputs import refuse_changes
from medrd.comparison.published import load_published
from medrd.comparison.table import results_document, results_markdown, results_rows
from medrd.config import Config, DataConfig, SplitConfig
from medrd.data.kinds import kind_of
from medrd.data.persons import by_person
from medrd.data.pictures.layouts import find_pictures
from medrd.data.split import seeded_order
from medrd.errors import ConfigError
from medrd.files import write_json, write_text
from medrd.metrics import Units, bootstrap_intervals, count_units, paired_differences
from medrd.metrics.columns import HEADLINES
from medrd.phantom.textures import write_texture_set
from medrd.run.folder_lock import lock_folder
from medrd.run.outputs import make_folder
from medrd.run.phantoms import make_phantoms
from medrd.run.progress import progress
from medrd.run.signals import InterruptedRunError
from medrd.runner.runner import HERE, Runner

logger = logging.getLogger("medrd.compare")


def compare(config: CompareConfig, out: str | Path, *, runner: Runner = HERE) -> Comparison:
    """Train and evaluate every cell, and write the results.

    Parameters
    ----------
    config
        From :func:`medrd.comparison.config.load_compare`.
    out
        The folder for ``cells/``, ``results.csv``, ``results.json``, ``results.md`` and
        ``results.png``. Cells that an earlier call finished are kept.
    runner
        Runs the cells in this process, or with :class:`medrd.runner.on_ray.Ray` several at a
        time. The speeds in the results then come from cells that ran side by side.

    Raises
    ------
    ConfigError
        A cell's config is not valid, a data set is missing, the folder's results were made
        with other configs or other data, or another comparison is running there. Nothing has
        been started or changed then.
    InterruptedRunError
        On SIGTERM or Ctrl-C, with the running cells saved.
    """
    out = Path(out)
    make_folder(out)
    with lock_folder(out, "comparison"):
        cells = plan(config, out)
        inputs = refuse_changes(cells, out)
        comparison = _gather(config, _run(cells, CellWork(out, inputs, tuple(cells)), runner))
        _write(comparison, out)
    return comparison


def _run(cells: Sequence[Cell], work: CellWork, runner: Runner) -> list[Finished]:
    finished: dict[int, list[Finished]] = {}
    try:
        with closing(runner.map(work, cells)) as results:
            for index, result in results:
                finished[index] = result
                logger.info("[%d/%d] %s", len(finished), len(cells), cells[index].name)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"stopped after {len(finished)} of {len(cells)} cells; their results are kept. Run "
            "the same comparison again to continue."
        ) from None
    return [test for index in range(len(cells)) for test in finished[index]]


def _write(comparison: Comparison, out: Path) -> None:
    write_text(out / "results.csv", _csv(results_rows(comparison)))
    published = load_published()
    document = results_document(comparison, published=published)
    write_json(out / "results.json", document)
    page = results_markdown(comparison, published=published)
    write_text(out / "results.md", page)
    save_figure(comparison, out / "results.png")


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plan(config: CompareConfig, out: Path) -> list[Cell]:
    """Generate data sets if requested, and list all cells in the order in which they run.

    Every config is validated first.
    """
    roots = {name: data.root or out / "data" / name for name, data in config.data_sets.items()}
    for name in config.data_sets:
        for model in config.models:
            cell_config(config, model, name, config.seeds[0], root=roots[name])
    for name, data in config.data_sets.items():
        if isinstance(data.generate, PhantomConfig):
            make_phantoms(roots[name], data.generate.subjects, seed=data.generate.seed)
        elif isinstance(data.generate, TexturesConfig):
            write_texture_set(roots[name], **data.generate.model_dump(exclude={"kind"}))
    cells = []
    parts = {name: _parts(config, name, root) for name, root in roots.items()}
    for seed in config.seeds:
        for name, data in config.data_sets.items():
            for category, part in parts[name].items():
                for model, compared in config.models.items():
                    if name in compared.skip or data.domain in compared.skip:
                        continue
                    resolved = cell_config(config, model, name, seed, root=roots[name], part=part)
                    others = {
                        other: _also_test(resolved, name, other, path)
                        for other, path in data.also_test.items()
                    }
                    cells.append(Cell(model, name, data.domain, category, seed, resolved, others))
    return cells


def _also_test(config: Config, name: str, other: str, root: Path) -> Config:
    """A cell's config with all subjects of another folder for testing."""
    key = f"data_sets.{name}.also_test.{other}"
    if config.data.kind == "pictures":
        raise ConfigError(
            key,
            expected="scans (for pictures, the folders decide which are for testing)",
            found="pictures",
            remedy="Remove also_test.",
        )
    what = f"the folder of {other}, on which the models of {name} are tested too"
    _refuse_no_folder(root, what, key)
    data = config.data.model_copy(update={"root": root, "split": SplitConfig.all_to_test()})
    return config.model_copy(update={"data": data})


def _refuse_no_folder(root: Path, what: str, key: str) -> None:
    if not root.is_dir():
        raise ConfigError(
            root, expected=what, found="no such folder", remedy=f"Set it: --set {key}=PATH."
        )


def _parts(config: CompareConfig, name: str, root: Path) -> dict[str | None, dict[str, Any]]:
    """The categories or folds that get a model each, with their overrides of section ``data``.

    A single part named None if one model is trained on the whole data set.
    """
    data = config.data_sets[name]
    first = cell_config(config, next(iter(config.models)), name, config.seeds[0], root=root)
    _refuse_no_folder(root, f"the folder of data set {name}", f"data_sets.{name}.root")
    if data.folds is not None:
        return {
            f"fold{number}": {"split": {"test": list(fold)}}
            for number, fold in enumerate(_folds(data.folds, name, first), start=1)
        }
    if first.data.kind != "pictures" or data.categories == "together":
        return {None: {}}
    pictures = find_pictures(root, layout=first.data.layout, category=first.data.category)
    return {category: {"category": category} for category in sorted({p.category for p in pictures})}


def _folds(
    folds: int | tuple[tuple[str, ...], ...], name: str, config: Config
) -> Sequence[Sequence[str]]:
    """The test subjects of each fold: as listed, or dealt in an order that depends only on ids."""
    if config.data.kind == "pictures":
        raise ConfigError(
            f"data_sets.{name}.folds",
            expected="scans (for pictures, the folders decide which are for testing)",
            found="pictures",
            remedy="Remove folds.",
        )
    if not isinstance(folds, int):
        return folds
    ids = [subject.id for subject in kind_of(config.recipe).subjects(config)]
    assert isinstance(config.data, DataConfig)
    persons = {scans[0]: scans for scans in by_person(ids, config.data.subject_pattern).values()}
    if len(persons) < folds + 2:
        raise ConfigError(
            f"data_sets.{name}.folds",
            expected=f"at least two subjects more than folds ({folds})",
            found=f"{len(persons)} in {config.data.root}",
            remedy="Ask for fewer folds.",
        )
    ordered = seeded_order(persons, seed=0)
    return [
        sorted(scan for first in ordered[number::folds] for scan in persons[first])
        for number in range(folds)
    ]


def _gather(config: CompareConfig, finished: Sequence[Finished]) -> Comparison:
    """Intervals and paired differences over all seeds and categories."""
    groups: dict[tuple[str, str], dict[tuple[int, str], Units]] = {}
    # A seed that lacks a category has no mean over categories, so it is left out here too.
    broken = {(c.result.model, c.result.data_set, c.result.seed) for c in finished if not c.units}
    for cell in finished:
        place = (cell.result.model, cell.result.data_set)
        for part, units in cell.units.items():
            if (*place, cell.result.seed) not in broken:
                groups.setdefault(place, {})[cell.result.seed, part] = units
    intervals: dict[tuple[str, str], dict[str, Interval]] = {}
    differences = []
    data_sets = list(dict.fromkeys(cell.result.data_set for cell in finished))
    pairs = list(product(data_sets, combinations(config.models, 2)))
    with progress("intervals and differences", len(groups) + len(pairs)) as advance:
        for place, parts in groups.items():
            limits = bootstrap_intervals(list(parts.values()), resamples=config.resamples)
            intervals[place] = {key: Interval(low, high) for key, (low, high) in limits.items()}
            advance(note=" on ".join(place))
        for data_set, (first, second) in pairs:
            differences += _differences(groups, data_set, first, second, config.resamples)
            advance(note=f"{first} and {second} on {data_set}")
    return Comparison(
        name=config.name,
        note=config.note,
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
    """Paired differences over the seeds and categories in which both tested the same inputs."""
    a, b = groups.get((first, data_set), {}), groups.get((second, data_set), {})
    shared = [key for key in a if key in b and set(a[key].ids) == set(b[key].ids)]
    if not shared:
        return []
    paired = paired_differences(
        [a[key] for key in shared], [b[key] for key in shared], resamples=resamples
    )
    return [
        Difference(
            data_set=data_set,
            metric=metric,
            model_a=first,
            model_b=second,
            units=count_units([a[key] for key in shared]),
            mean=paired[metric].mean,
            low=paired[metric].low,
            high=paired[metric].high,
            p_value=paired[metric].p_value,
        )
        for metric in HEADLINES
        if metric in paired and not math.isnan(paired[metric].mean)
    ]
