"""Records of results: read as they were written, in every version, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medrd.errors import FileFormatError
from medrd.run.record import PredictionRecord, Record
from scan_pages import make_record


def written(path: Path, **changes: Any) -> dict[str, Any]:
    """A record's content, with keys changed or (None) removed, also written to ``path``."""
    content = make_record(Sources=["bids::a.nii.gz"], series=None).content
    content = {key: changes.get(key, value) for key, value in content.items()}
    content = {key: value for key, value in content.items() if value != "removed"}
    path.write_text(json.dumps(content))
    return content


def test_a_record_keeps_its_keys_their_order_and_values(tmp_path: Path) -> None:
    content = written(tmp_path / "a.json")
    assert list(content)[:5] == ["Sources", "subject", "inputs", "frame", "series"]
    assert list(content)[-2:] == ["outputs", "identity"]
    PredictionRecord.load(tmp_path / "a.json", remedy="").write(tmp_path / "b.json")
    again = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert (again, list(again)) == (content, list(content))


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ("frame", "none of frame in it"),
        ("scan_score", "none of anomalous_pixels, image_score, pixels_scored in it"),
        ("slices_scored", "none of slices_scored in it"),
    ],
)
def test_a_record_of_an_earlier_version_is_one_but_not_a_whole_one(
    tmp_path: Path, lacks: str, words: str
) -> None:
    written(tmp_path / "a.json", **{lacks: "removed"})
    assert Record.read(tmp_path / "a.json") is not None
    assert PredictionRecord.read(tmp_path / "a.json") is None
    with pytest.raises(FileFormatError, match=words):
        PredictionRecord.load(tmp_path / "a.json", remedy="Predict it again.")


@pytest.mark.parametrize("content", ["", "{", "[]", "1", '{"identity": {}}', b"\xff"])
def test_what_is_no_record_is_none(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert Record.read(path) is None
    assert Record.read(tmp_path / "missing.json") is None
