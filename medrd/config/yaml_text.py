"""Read YAML without its surprising types, and report mistakes with their line."""

from __future__ import annotations

import re
from typing import Any

import yaml

_MOST_VALUES = 1_000_000
_INT = "tag:yaml.org,2002:int"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class DoubledKeyError(yaml.YAMLError):
    """A key occurs twice in one mapping; YAML would take the last.

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
    """A loader without octal numbers (010), base-60 numbers (1:30) and dates, which YAML 1.2 does
    not have either: as subject ids and folder names they are strings."""


_Loader.yaml_implicit_resolvers = {
    first: [each for each in found if each[0] not in (_INT, _TIMESTAMP)]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _INT, re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"), list("-+0123456789")
)


def parse_yaml(content: str | bytes) -> Any:
    """The content of a YAML text, in plain types. Bytes are UTF-8, or UTF-16 with a mark.

    Raises
    ------
    DoubledKeyError
        A key occurs twice in one mapping.
    yaml.YAMLError
        The text is not YAML, asks for other types, or repeats itself without end. The message is
        one line.
    """
    text = content if isinstance(content, str) else _decoded(content)
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, loader)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except DoubledKeyError:
        raise
    except yaml.YAMLError as error:
        raise yaml.YAMLError(_in_one_line(error, text)) from None
    # PyYAML itself fails on these: !!timestamp and !!int with other words, a thousand brackets.
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise yaml.YAMLError(f"a value that YAML cannot read ({error})") from error


def _decoded(content: bytes) -> str:
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise yaml.YAMLError(
            f"line {line}: bytes that are not {encoding.removesuffix('-sig').upper()} "
            "(save the file as UTF-8)"
        ) from None


def _check(root: yaml.Node, loader: _Loader) -> None:
    """Raise YAMLError for repeated keys, and for anchors that expand too far: a few lines may stand
    for more values than fit into memory ("a billion laughs")."""
    sizes: dict[int, int] = {}
    unfinished: set[int] = set()

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in unfinished:
            raise yaml.MarkedYAMLError(
                problem="Circular reference: an anchor within itself", problem_mark=node.start_mark
            )
        if id(node) not in sizes:
            unfinished.add(id(node))
            if isinstance(node, yaml.MappingNode):
                _refuse_doubled(node, loader)
                sizes[id(node)] = 1 + sum(size(key) + size(value) for key, value in node.value)
            else:
                sizes[id(node)] = 1 + sum(map(size, node.value))
            unfinished.remove(id(node))
        if sizes[id(node)] > _MOST_VALUES:
            raise yaml.MarkedYAMLError(
                problem=f"more than {_MOST_VALUES} values, counting what anchors repeat",
                problem_mark=node.start_mark,
            )
        return sizes[id(node)]

    size(root)


def _refuse_doubled(mapping: yaml.MappingNode, loader: _Loader) -> None:
    lines: dict[Any, int] = {}
    for node, _ in mapping.value:
        if isinstance(node, yaml.ScalarNode):
            merges = node.tag == "tag:yaml.org,2002:merge"  # no constructor knows this tag
            key = node.value if merges else loader.construct_object(node)
            line = node.start_mark.line + 1
            if key in lines:
                raise DoubledKeyError(str(key), (lines[key], line))
            lines[key] = line


def _in_one_line(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        return f"line {line}: the character {chr(error.character)!r}, which YAML forbids"
    if mark is None or problem is None:
        return " ".join(str(error).split())
    hint = " (indent with spaces)" if "'\\t'" in problem else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem.removeprefix('but ')}{hint}"


def format_yaml(content: Any) -> str:
    """Plain types as YAML text, in their order."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
