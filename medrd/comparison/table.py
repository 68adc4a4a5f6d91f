"""A comparison's results as a Markdown page, as rows for a CSV file and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medrd.comparison.comparison import (
    FACTS,
    Aggregate,
    CellResult,
    Comparison,
    aggregate,
    agreements,
    finite,
    holm_p_values,
    ranks,
)
from medrd.comparison.published import (
    Published,
    held_against,
    published_of,
    published_table,
)
from medrd.metrics.columns import FULL_HEADINGS, HEADLINES, METRICS
from medrd.run.table import markdown_table, spread_cell

FEW_UNITS = 20
"""A bootstrap over fewer subjects or pictures is only rough."""


def results_rows(comparison: Comparison) -> list[dict[str, str | float | None]]:
    """One row per cell, all with the same keys, for a CSV file."""
    extra = sorted({key for c in comparison.cells for key in c.metrics or {}} - set(FULL_HEADINGS))
    return [
        {
            **_place(c),
            "status": c.status,
            **{key: c.value(key) for key in (*FULL_HEADINGS, *extra)},
            **{key: finite(c.facts.get(key)) for key in FACTS},
            "error": c.error,
        }
        for c in comparison.cells
    ]


def results_document(comparison: Comparison, *, published: Sequence[Published]) -> dict[str, Any]:
    """The whole comparison as plain types for JSON."""
    return {
        "name": comparison.name,
        "note": comparison.note,
        "definitions": {
            "spread": "sample standard deviation over seeds",
            "interval": "95 % bootstrap interval over subjects or pictures of the mean over seeds",
            "category": "null: mean over categories within each seed, then over seeds",
            "oracle": [metric.key for metric in METRICS if metric.oracle],
            "difference": "model_a minus model_b, paired; p_holm is corrected for all differences",
        },
        "cells": [
            row | {"bounds": {key: list(pair) for key, pair in cell.bounds.items()}}
            for row, cell in zip(results_rows(comparison), comparison.cells, strict=True)
        ],
        "aggregates": [
            _aggregate_entry(comparison, model, data_set, category)
            for data_set in comparison.data_sets
            for category in (*comparison.categories(data_set), None)
            for model in comparison.models
        ],
        "ranks": [
            {"metric": metric, "data_set": data_set, "domain": comparison.domain(data_set)}
            | {"ranks": ranks(comparison, data_set, metric)}
            for metric in HEADLINES
            for data_set in comparison.data_sets
        ],
        "agreement": [
            {"metric": metric, "domains": list(pair), **agreement._asdict()}
            for metric, pair, agreement in agreements(comparison)
        ],
        "differences": [
            asdict(d) | {"p_holm": p}
            for d, p in zip(comparison.differences, holm_p_values(comparison), strict=True)
        ],
        "published": [
            asdict(p) | {"our_row": _held(comparison, p) or None}
            for p in published_of(published, comparison.models)
        ],
        **{
            status: [_place(c) | {"error": c.error} for c in comparison.cells if c.status == status]
            for status in ("failed", "incomplete")
        },
    }


def results_markdown(comparison: Comparison, *, published: Sequence[Published]) -> str:
    """The comparison as one page: our tables, and at the end published results of others."""
    parts = [f"# {_plain(comparison.name)}", *_introduction(comparison)]
    for data_set in comparison.data_sets:
        parts += [
            f"## {_plain(_title(comparison, data_set))}",
            _data_set_table(comparison, data_set),
        ]
    parts.append("## Side by side")
    for metric in HEADLINES:
        parts += [f"### {FULL_HEADINGS[metric]}", _side_by_side(comparison, metric)]
    parts += _agreement_part(comparison)
    parts += _differences_part(comparison)
    parts += ["## Speed and size", "Means over the runs.", _facts_table(comparison)]
    for status, heading in (("failed", "Failed cells"), ("incomplete", "Incomplete cells (†)")):
        cells = [c for c in comparison.cells if c.status == status]
        if cells:
            header = ["model", "data set", "category", "seed", "error"]
            body = [
                [c.model, c.data_set, c.category or "–", str(c.seed), c.error or "–"] for c in cells
            ]
            parts += [f"## {heading}", _table(header, body)]
    figures = published_of(published, comparison.models)
    if figures:
        parts += [
            "## Published results, under other protocols",
            "These results of other authors are not comparable with the tables above: their "
            "splits, resolutions, regions, model selection and definitions of PRO differ. See the "
            "notes. Our row is the one to compare with a result if its protocol is kept.",
            published_table(figures, [_held(comparison, figure) for figure in figures]),
        ]
    return "\n\n".join(parts) + "\n"


def _held(comparison: Comparison, figure: Published) -> str:
    return held_against(figure, comparison.models, comparison.data_sets)


def aggregate_cell(value: Aggregate) -> str:
    """For example ``0.929 ± 0.011 [0.901, 0.950] (2 of 3 seeds) †``, "failed" or a dash."""
    if not value.seeds:
        return "failed" if value.failed else "–"
    text = spread_cell(list(value.seeds.values()))
    if value.interval is not None:
        text += f" [{value.interval.low:.3f}, {value.interval.high:.3f}]"
    if value.shortfall is not None:
        text += f" ({value.shortfall})"
    return text if value.complete else f"{text} †"


def _introduction(comparison: Comparison) -> list[str]:
    count = len(comparison.cells)
    states = [c.status for c in comparison.cells]
    lines = [f"**{_plain(comparison.note)}**"] if comparison.note else []
    lines += [
        "Cells show mean ± standard deviation over seeds, and in brackets the 95 % bootstrap "
        "interval over subjects or pictures of the mean over seeds. Oracle: the threshold is "
        "chosen on the test labels, so the value shows what the maps could give, not what a user "
        "would get.",
    ]
    if any(len(comparison.categories(d)) > 1 for d in comparison.data_sets):
        lines.append(
            "For data sets with several categories, the mean over categories is taken within each "
            "seed first, then mean and spread over seeds; a seed that lacks a category is left "
            "out. Intervals are of that mean."
        )
    widths = [high - low for c in comparison.cells for low, high in c.bounds.values()]
    if widths:
        lines.append(
            "Some pixel metrics are not exact because there are too many pixels; the exact values "
            f"are within {max(widths):.1g} of those given."
        )
    if "failed" in states:
        lines.append(
            f"**{states.count('failed')} of {count} cells failed**; they are listed below."
        )
    if "incomplete" in states:
        lines.append(
            f"† In {states.count('incomplete')} of {count} cells some test inputs failed and were "
            "left out of all numbers; these cells are listed below."
        )
    return lines


def _data_set_table(comparison: Comparison, data_set: str) -> str:
    keys = [
        key
        for key in FULL_HEADINGS
        if any(c.value(key) is not None for c in comparison.cells if c.data_set == data_set)
    ]
    categories = comparison.categories(data_set)
    # With one category, only its mean over categories is shown, since that has an interval.
    rows: list[str | None] = [*(categories if len(categories) > 1 else []), None]
    mean = f"mean of {len(categories)}" if len(categories) > 1 else "".join(categories)
    body = [
        [
            *([category or mean] if categories else []),
            model,
            *(aggregate_cell(aggregate(comparison, model, data_set, k, category)) for k in keys),
        ]
        for category in rows
        for model in comparison.models
    ]
    first = ["category", "model"] if categories else ["model"]
    return _table([*first, *(FULL_HEADINGS[key] for key in keys)], body)


def _side_by_side(comparison: Comparison, metric: str) -> str:
    header, columns = ["model"], [comparison.models]
    for data_set in comparison.data_sets:
        ranked = ranks(comparison, data_set, metric)
        values = [aggregate(comparison, model, data_set, metric) for model in comparison.models]
        header += [_title(comparison, data_set), "rank"]
        columns += [[aggregate_cell(v) for v in values], [_rank(r) for r in ranked.values()]]
    return _table(header, list(zip(*columns, strict=True)))


def _agreement_part(comparison: Comparison) -> list[str]:
    header = ["metric", "domains", "models", "Kendall's τ-b", "Spearman's ρ"]
    body = []
    sizes = set()
    for metric, pair, (models, *correlations) in agreements(comparison):
        sizes.add(len(models))
        numbers = [f"{n:.3f}" if n is not None else "not defined" for n in correlations]
        body.append([FULL_HEADINGS[metric], " – ".join(pair), str(len(models)), *numbers])
    if not body:
        return []
    smallest = min((size for size in sizes if size >= 3), default=0)
    note = (
        "1: both domains rank the models in the same order; 0: no relation; -1: in reverse order. "
        "Not defined for fewer than three models, or if all are tied."
    )
    if smallest and (least := 2 / math.factorial(smallest)) > 0.05:
        note += f" With {smallest} models, even full agreement has p = {least:.2g} (two-sided)."
    return ["### Agreement of ranks between domains", note, _table(header, body)]


def _differences_part(comparison: Comparison) -> list[str]:
    if not comparison.differences:
        return []
    header = ["data set", "metric", "a", "b", "units", "a − b", "95 % interval", "p", "p (Holm)"]
    body = [
        [
            d.data_set,
            FULL_HEADINGS.get(d.metric, d.metric),
            d.model_a,
            d.model_b,
            str(d.units),
            f"{d.mean:+.3f}",
            f"[{d.low:+.3f}, {d.high:+.3f}]",
            _p(d.p_value),
            _p(p),
        ]
        for d, p in zip(comparison.differences, holm_p_values(comparison), strict=True)
    ]
    note = (
        "Differences are paired over subjects or pictures, for the seeds and categories that both "
        "models have finished. p is for each difference alone; p (Holm) is corrected for all "
        f"{len(body)} differences of this table; intervals are not corrected. The variation "
        "between training runs is not part of these tests: see the spread over seeds."
    )
    if min(d.units for d in comparison.differences) < FEW_UNITS:
        note += (
            f" With fewer than {FEW_UNITS} units (subjects or pictures), intervals and p are rough "
            "despite the correction for small samples."
        )
    return ["## Paired differences", note, _table(header, body)]


def _facts_table(comparison: Comparison) -> str:
    body = []
    for model in comparison.models:
        for data_set in comparison.data_sets:
            cells = [
                c
                for c in comparison.cells
                if (c.model, c.data_set) == (model, data_set) and c.metrics is not None
            ]
            line = [model, data_set]
            for key, (_, factor, decimals) in FACTS.items():
                values = [v for c in cells if (v := finite(c.facts.get(key))) is not None]
                mean = math.fsum(values) / len(values) * factor if values else None
                line.append("–" if mean is None else f"{mean:.{decimals}f}")
            body.append(line)
    return _table(["model", "data set", *(heading for heading, _, _ in FACTS.values())], body)


def _aggregate_entry(
    comparison: Comparison, model: str, data_set: str, category: str | None
) -> dict[str, Any]:
    metrics = {}
    for key in FULL_HEADINGS:
        value = aggregate(comparison, model, data_set, key, category)
        metrics[key] = {
            "mean": value.mean,
            "spread": value.spread,
            "n": len(value.seeds),
            "planned": value.planned,
            "interval": asdict(value.interval) if value.interval else None,
            "complete": value.complete,
            "failed": value.failed,
        }
    place = {"model": model, "data_set": data_set, "domain": comparison.domain(data_set)}
    return place | {"category": category, "metrics": metrics}


def _title(comparison: Comparison, data_set: str) -> str:
    return f"{data_set} ({comparison.domain(data_set)})"


def _place(cell: CellResult) -> dict[str, str | float | None]:
    return {k: getattr(cell, k) for k in ("model", "data_set", "domain", "category", "seed")}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(list(map(_plain, header)), [list(map(_plain, row)) for row in rows])


def _plain(text: str) -> str:
    """The text on one line, with bars escaped, as a bar would start a new column."""
    return " ".join(text.split()).replace("|", r"\|")


def _rank(rank: float | None) -> str:
    return "–" if rank is None else f"{rank:g}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
