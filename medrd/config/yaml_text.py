"""Read YAML in which every key of a mapping stands once."""

from __future__ import annotations

from typing import Any

import yaml


class DoubledKeyError(yaml.YAMLError):
    """A key stands twice in one mapping, of which YAML would take the last.

    Attributes
    ----------
    key, lines
        The key, and the lines (counted from 1) of both.
    """

    def __init__(self, key: str, lines: tuple[int, int]) -> None:
        self.key = key
        self.lines = lines
        super().__init__(f"{key} twice, in lines {lines[0]} and {lines[1]}")


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                continue
            key, line = self.construct_object(key_node), key_node.start_mark.line + 1
            if key in lines:
                raise DoubledKeyError(str(key), (lines[key], line))
            lines[key] = line
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str) -> Any:
    """The content of a YAML text, in plain types.

    Raises
    ------
    DoubledKeyError
        A key stands twice in one mapping.
    yaml.YAMLError
        The text is no YAML, or asks for other types.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise
    # What PyYAML itself stumbles over: !!timestamp and !!int of other words, a thousand brackets.
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise yaml.YAMLError(f"a value that YAML cannot read ({error})") from error
