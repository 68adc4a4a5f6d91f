"""Output streams of any encoding take every text."""

from __future__ import annotations

import io
import os
import sys

import pytest
import typer

from medrd.run.terminal import take_every_text


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("latin-1", b"M\xfcller - 4 \xd7 4 mm, >= 0.5 ?\n"),
        ("ascii", b"M\xfcller - 4 x 4 mm, >= 0.5 ?\n"),
        ("cp1252", b"M\xfcller \x97 4 \xd7 4 mm, >= 0.5 ?\n"),
        ("utf-8", b"M\xfcller " + "— 4 × 4 mm, ≥ 0.5 日\n".encode()),
    ],
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_an_encoding_lacks_is_written_as_something_similar(
    encoding: str, written: bytes, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = io.BytesIO()
    stream = io.TextIOWrapper(sink, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, name, stream)
    take_every_text()
    text = os.fsdecode(b"M\xfcller") + " — 4 × 4 mm, ≥ 0.5 日"
    stream.write(f"{text}\n")
    stream.flush()
    assert sink.getvalue() == written
    if encoding != "ascii":  # which click takes for a mistake, and writes UTF-8 to
        typer.echo(text, err=name == "stderr")
        stream.flush()
        assert sink.getvalue() == 2 * written
