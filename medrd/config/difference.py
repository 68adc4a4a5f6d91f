"""The first difference between two configs, for messages."""

from __future__ import annotations

from typing import Any

_CHOICES = ("name", "kind", "algorithm")


def first_difference(was: Any, now: Any, key: str = "") -> tuple[str, Any, Any]:
    """The first key whose values differ in two nested mappings, and both values; "" if none."""
    if isinstance(was, dict) and isinstance(now, dict):
        # Another name, kind or algorithm explains why its keys differ.
        for name in sorted(was.keys() | now.keys(), key=lambda name: (name not in _CHOICES, name)):
            inner = f"{key}.{name}" if key else name
            found = first_difference(was.get(name), now.get(name), inner)
            if found[0]:
                return found
        return "", None, None
    return (key, was, now) if was != now else ("", None, None)
