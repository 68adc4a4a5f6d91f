"""Runs the commands of a documentation page, or checks that they could be run."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import dropwhile
from pathlib import Path
from typing import Any

import typer
import yaml
from typer.testing import CliRunner

import medrd
from medrd.cli import app
from medrd.comparison.config import cell_config, load_compare, make_compare
from medrd.config.load import load_config, make_config
from medrd.errors import MedrdError
from medrd.tuning.config import load_tune, make_tune
from snippets import Snippet
from stand_ins import STAND_INS

ROOT = Path(__file__).resolve().parents[1]

_OTHERS = {"apt-get", "cd", "git", "pip", "python3", "ray", "source", "tensorboard"}
"""Programs that blocks name which are not run; what they are told is not looked at."""
_HARMLESS = {"cat", "cp", "ls", "mkdir", "mv"}
"""Programs that are run as they stand."""
_ELLIPSIS = "…"
_EXACT = {"error"}
"""Keys of JSON files whose values a page must show as they are."""


class Reader:
    """One who works through a page, from its top to its end, in one folder.

    Parameters
    ----------
    folder
        The current folder; has a copy of ``configs/``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def follow(self, snippet: Snippet) -> None:
        """Run a block, or parse it if it says that it is not run.

        Raises
        ------
        AssertionError
            It does not do what the page says, or could not.
        """
        text = self._with_small_data(snippet) if snippet.not_run is None else snippet.text
        match snippet.language:
            case "sh":
                self._shell(snippet, text)
            case "python":
                self._python(snippet, text)
            case "yaml":
                self._yaml(snippet, text)
            case "json":
                self._json(snippet, text)
            case "text" | "":
                if snippet.shows:
                    self._listing(snippet, text)
            case other if other.startswith("{"):  # a directive of the site's generator
                pass
            case other:
                raise AssertionError(f"{snippet.place}: nothing is known of {other!r} blocks")

    def _with_small_data(self, snippet: Snippet) -> str:
        """``/data/NAME`` becomes ``data/NAME``, and is made."""
        for name in sorted(set(re.findall(r"/data/(\w+)", snippet.text))):
            place = self.folder / "data" / name
            assert name in STAND_INS, f"{snippet.place}: nothing stands in for /data/{name}"
            if not place.exists():
                STAND_INS[name](place)
        return snippet.text.replace("/data/", "data/")

    def _shell(self, snippet: Snippet, text: str) -> None:
        commands = list(replace(snippet, text=text).commands())
        assert commands, f"{snippet.place}: an empty block"
        for number, words in enumerate(commands, start=1):
            place = f"{snippet.place}: {' '.join(words)}"
            if snippet.not_run is not None:
                check_command(words, place)
                continue
            expected = snippet.exit_code if number == len(commands) else 0
            code, said = _run(words, self.folder, place)
            assert code == expected, f"{place}\nexit code {code}\n{said}"

    def _python(self, snippet: Snippet, text: str) -> None:
        tree = ast.parse(text, snippet.place)
        unknown = [
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "medrd"
            and not hasattr(medrd, node.attr)
        ]
        assert not unknown, f"{snippet.place}: medrd has no {', '.join(unknown)}"
        if snippet.not_run is None:
            with redirect_stdout(io.StringIO()):
                exec(compile(tree, snippet.place, "exec"), self.names)

    def _yaml(self, snippet: Snippet, text: str) -> None:
        """A block that begins with ``# NAME.yaml`` is saved under that name."""
        raw = yaml.safe_load(text)
        load = make_compare if "data_sets" in raw else make_tune if "space" in raw else make_config
        load(raw, where=snippet.place)  # type: ignore[operator]
        name = re.match(r"#\s*(\S+\.yaml)\b", text)
        if name and snippet.not_run is None:
            (self.folder / name[1]).write_text(text, encoding="utf-8")

    def _json(self, snippet: Snippet, text: str) -> None:
        shown = json.loads(text)
        if snippet.shows and snippet.not_run is None:
            path = self.folder / snippet.shows
            assert path.is_file(), f"{snippet.place}: there is no {snippet.shows}"
            written = path.read_text(encoding="utf-8")
            first = written.splitlines()[0] if path.suffix == ".jsonl" else written
            compare_keys(shown, json.loads(first), snippet.place)

    def _listing(self, snippet: Snippet, text: str) -> None:
        """The first word of each line that is not indented is a name in the folder."""
        assert snippet.shows
        lines = [line for line in text.splitlines() if line and not line.startswith(" ")]
        said = {line.split()[0].rstrip("/") for line in lines}
        folder = self.folder / snippet.shows
        there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
        assert said == there, f"{snippet.place}: {snippet.shows} holds {sorted(there)}"


def compare_keys(shown: Any, found: Any, place: str) -> None:
    """Raise AssertionError where a picture of a JSON file has other keys than the file.

    Or values of another type, relative paths for absolute ones, or under a key of :data:`_EXACT`
    another value. Of lists the first entries are compared. A key or an entry ``…`` stands for more
    of them.
    """
    if isinstance(shown, dict):
        assert isinstance(found, dict), f"{place}: is {found!r}"
        missing = set(shown) - set(found) - {_ELLIPSIS}
        assert not missing, f"{place}: the file has no {sorted(missing)}, but {sorted(found)}"
        unsaid = set(found) - set(shown)
        assert _ELLIPSIS in shown or not unsaid, f"{place}: does not say {sorted(unsaid)}"
        for key in set(shown) & set(found):
            assert key not in _EXACT or shown[key] == found[key], f"{place}: is {found[key]!r}"
            compare_keys(shown[key], found[key], f"{place}: {key}")
    elif isinstance(shown, list):
        assert isinstance(found, list), f"{place}: is {found!r}"
        if shown and found and shown[0] != _ELLIPSIS:
            compare_keys(shown[0], found[0], f"{place}[0]")
    elif shown not in (None, _ELLIPSIS) and found is not None:
        numbers = (int, float)
        alike = type(shown) is type(found) or (
            isinstance(shown, numbers)
            and isinstance(found, numbers)
            and not isinstance(shown, bool)
            and not isinstance(found, bool)
        )
        if isinstance(found, str):  # who sends a file on must see that it names their folders
            alike = alike and shown.startswith("/") == found.startswith("/")
        assert alike, f"{place}: {shown!r} is shown for {found!r}"


def check_command(words: Sequence[str], place: str) -> None:
    """Raise AssertionError for a command that could not be given.

    Verbs, options and config keys of medrd; make's targets; scripts and their options.
    """
    program, *rest = dropwhile(re.compile("[A-Z_]+=").match, words)
    if program == "medrd":
        check_medrd(rest, place)
    elif program == "make":
        targets = set(
            re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        )
        named = {word for word in rest if "=" not in word}
        assert named <= targets, f"{place}: the Makefile has {sorted(targets)}"
    elif program == "python":
        script = ROOT / rest[0]
        assert script.is_file(), f"{place}: there is no {rest[0]}"
        known = script.read_text(encoding="utf-8")
        for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
            assert f'"{option}"' in known, f"{place}: {rest[0]} does not know {option}"
    else:
        assert program in _OTHERS | _HARMLESS, f"{place}: nothing is known of {program}"
        if "--" in rest:  # ray job submit … -- medrd …
            check_command(rest[rest.index("--") + 1 :], place)


def check_medrd(arguments: Sequence[str], place: str) -> None:
    """Raise AssertionError for a verb, an option or a config key that does not exist."""
    rest = list(arguments)
    while rest and rest[0] in ("-v", "--verbose", "-q", "--quiet"):
        rest.pop(0)
    if not rest or rest in (["--help"], ["--version"]):
        return
    verb, *options = rest
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert verb in verbs, f"{place}: medrd has no verb {verb}"
    try:
        given = verbs[verb].make_context(verb, options).params
    except Exception as error:
        raise AssertionError(f"{place}: {error}") from None
    if "set_" in given:
        _check_config(verb, given, place)


def _check_config(verb: str, given: dict[str, Any], place: str) -> None:
    """Load the config with its overrides; only the keys where the reader makes the file."""
    named = given["config"] if "config" in given else given["files"][-1]
    path, overrides = ROOT / named, list(given["set_"] or [])
    try:
        if not path.is_file():
            assert verb in ("train", "evaluate"), f"{place}: there is no {named}"
            make_config({}, overrides, where=place)
        elif verb == "compare":
            comparison = load_compare(path, overrides)
            for name in comparison.data_sets:
                for model in comparison.models:
                    cell_config(comparison, model, name, 0, root=Path("/data") / name)
        elif verb == "tune":
            load_tune(path, overrides)
        else:
            load_config(path, overrides)
    except MedrdError as error:
        raise AssertionError(f"{place}: {error}") from None


def _run(words: Sequence[str], folder: Path, place: str) -> tuple[int, str]:
    """The exit code, as :func:`medrd.cli.main` would have it, and what was said."""
    if words[0] == "medrd":
        result = CliRunner().invoke(app, list(words[1:]))
        code = getattr(result.exception, "exit_code", result.exit_code)
        if result.exception and not isinstance(result.exception, SystemExit | MedrdError):
            raise AssertionError(f"{place}: a bug") from result.exception
        return code, f"{result.output}\n{result.exception or ''}"
    if words == ["source", ".venv/bin/activate"]:
        return 0, ""
    assert words[0] in _HARMLESS, f"{place}: is not run by the tests; say why above the block"
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr
