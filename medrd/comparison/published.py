"""Published results of other authors, with source and protocol, kept apart from ours."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medrd.config.yaml_text import parse_yaml
from medrd.errors import ConfigError
from medrd.metrics.columns import FULL_HEADINGS
from medrd.run.table import markdown_table

PUBLISHED = Path(__file__).with_name("published.yaml")
_THRESHOLD_FREE = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_dice_best")
VALUES = {key: FULL_HEADINGS[key] for key in _THRESHOLD_FREE} | {"pro": "PRO (their definition)"}
"""The numbers that a published result may give, and their headings.

``pro`` is not ``aupro``: its definition differs from source to source.
"""
_TEXTS = ("model", "data_set", "source", "protocol")


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes
    ----------
    model
        The method's short name, the same as in our configs if medrd has the method.
    values, spread
        Fractions by key of :data:`VALUES`; ``spread`` is a standard deviation, if given.
    source, protocol
        The publication, and one line about how the result was obtained.
    """

    model: str
    data_set: str
    values: dict[str, float]
    source: str
    protocol: str
    spread: dict[str, float] = field(default_factory=dict)


def load_published(path: Path = PUBLISHED) -> list[Published]:
    """Read and validate the list of published results.

    Raises
    ------
    ConfigError
        The file is not a list of entries like :class:`Published`, or a value is not a fraction.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        found = " ".join(str(error).split())
        raise _error(str(path), "a readable YAML file", found) from error
    if not isinstance(content, list):
        raise _error(str(path), "a list of published results", type(content).__name__)
    return [_entry(f"{path}, entry {i}", raw) for i, raw in enumerate(content, start=1)]


def published_of(figures: Iterable[Published], models: Sequence[str]) -> list[Published]:
    """The published results of the methods behind ``models`` (names of a table's rows).

    A row's name is its method's name, perhaps followed by a separator and more: ``rd4ad`` and
    ``rd4ad_wrn50`` are RD4AD; ``rd`` and ``sk-rd4ad`` are not.
    """
    return [
        figure
        for figure in figures
        if any(re.match(rf"{re.escape(figure.model)}(?![a-z0-9+])", m.lower()) for m in models)
    ]


def held_against(figure: Published, models: Sequence[str], data_sets: Sequence[str]) -> str:
    """The row to compare with a published result, if its protocol is kept; "" if there is none.

    It is the row with the method's own name (``rd4ad``, not ``rd4ad_pixel``), on the data set
    with which the published one's name begins (``mvtec_ad``: "MVTec AD, mean of 15 categories").
    """
    theirs = _letters(figure.data_set)
    model = next((name for name in models if name.lower() == figure.model.lower()), None)
    data_set = next((name for name in data_sets if theirs.startswith(_letters(name))), None)
    return f"{model} on {data_set}" if model and data_set else ""


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def published_table(figures: Sequence[Published], held: Sequence[str]) -> str:
    """Published results as a Markdown table, followed by the source and protocol of each.

    Parameters
    ----------
    held
        For each result, our row to compare with it; see :func:`held_against`.
    """
    keys = [key for key in VALUES if any(key in figure.values for figure in figures)]
    header = ["published method", "data set", *(VALUES[key] for key in keys), "our row", "note"]
    body = [
        [figure.model, figure.data_set, *(_value(figure, k) for k in keys), row or "–", f"[{i}]"]
        for i, (figure, row) in enumerate(zip(figures, held, strict=True), start=1)
    ]
    notes = [f"- [{i}] {f.source}: {f.protocol}." for i, f in enumerate(figures, start=1)]
    table = markdown_table(header, [[text.replace("|", r"\|") for text in row] for row in body])
    return "\n".join([table, "", *notes])


def _value(figure: Published, key: str) -> str:
    """The value with the digits that were published."""
    if key not in figure.values:
        return "–"
    spread = figure.spread.get(key)
    return f"{figure.values[key]:.4g}" + (f" ± {spread:.4g}" if spread is not None else "")


def _entry(where: str, raw: object) -> Published:
    if not isinstance(raw, dict):
        raise _error(where, "a mapping", repr(raw))
    unknown = sorted(set(raw) - {*_TEXTS, "values", "spread"}, key=str)
    if unknown:
        raise _error(where, f"only {', '.join(_TEXTS)}, values and spread", f"{unknown[0]!r}")
    for key in _TEXTS:
        text = raw.get(key)
        if not isinstance(text, str) or not text.strip():
            raise _error(f"{where}, {key}", "a text", repr(text))
    values = _fractions(f"{where}, values", raw.get("values"), VALUES)
    if not values:
        raise _error(f"{where}, values", "at least one number", "none")
    spread = _fractions(f"{where}, spread", raw.get("spread", {}), values)
    texts = {key: " ".join(raw[key].split()) for key in _TEXTS}
    return Published(values=values, spread=spread, **texts)


def _fractions(where: str, raw: Any, keys: Mapping[str, object]) -> dict[str, float]:
    if not isinstance(raw, dict):
        raise _error(where, "a mapping of numbers", repr(raw))
    for key, value in raw.items():
        if key not in keys:
            raise _error(where, f"keys among {', '.join(keys)}", repr(key))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 <= value <= 1:
            raise _error(f"{where}, {key}", "a fraction from 0 to 1", repr(value))
    return {key: float(value) for key, value in raw.items()}


def _error(where: str, expected: str, found: str) -> ConfigError:
    return ConfigError(
        where,
        expected=expected,
        found=found,
        remedy="Correct the list of published results; percentages are written as fractions.",
    )
