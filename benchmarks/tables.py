"""Tables that several benchmarks print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medrd.metrics.columns import COLUMNS
from medrd.run.table import markdown_table, spread_cell


def spread_table(results: Mapping[str, Sequence[Mapping[str, float | None]]]) -> str:
    """A table with models as rows, and mean ± spread over runs (seeds) in its cells."""
    body = [
        [name, *(spread_cell([run.get(key) for run in runs]) for key in COLUMNS)]
        for name, runs in results.items()
    ]
    return markdown_table(["model", *COLUMNS.values()], body)
