"""The documentation: its commands are run or parsed, its links lead somewhere, its site builds."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from medrd.errors import MedrdError
from medrd.phantom import cohort as phantom
from medrd.run import phantoms as phantom_workflow
from reader import ROOT, Reader
from snippets import Snippet, read_snippets
from stand_ins import small_phantom

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def reader(warm_workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader in a separate folder, where simulated brains are small."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDRD_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setattr(phantom, "make_subject", small_phantom)
    # In this process, which is the one that knows of the small brains.
    here = phantom.write_cohort
    monkeypatch.setattr(
        phantom_workflow, "write_cohort", lambda *a, **k: here(*a, **(k | {"workers": 1}))
    )
    level = logging.getLogger("medrd").level
    yield Reader(tmp_path)
    logging.getLogger("medrd").setLevel(level)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_can_be_done(page: Path, reader: Reader) -> None:
    for snippet in read_snippets(page):
        reader.follow(snippet)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.filterwarnings("ignore:.*Check CHANGES for Sphinx API")  # of myst_parser's own
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    from sphinx.cmd.build import build_main

    site = tmp_path / "site"
    arguments = ["-W", "-q", "-b", "html", "-d", str(tmp_path / "doctrees")]
    assert build_main([*arguments, str(ROOT / "docs"), str(site)]) == 0
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file()


block = partial(Snippet, Path("page.md"), 7)


@pytest.mark.parametrize(
    "snippet",
    [
        block("sh", "medrd fly"),
        block("sh", "medrd phantom --out brains --subjekts 2"),
        block("sh", "medrd train configs/brats/intensity.yaml --out run"),  # no data
        block("sh", "rm -rf brains"),
        block("sh", "medrd fly", "a reason"),
        block("sh", "medrd predict run", "a reason"),
        block("sh", "medrd predict run scan.nii --out maps --bold", "a reason"),
        block("sh", "medrd train mine.yaml --workers x --out run", "a reason"),
        block("sh", "medrd compare nothing.yaml --out x", "a reason"),
        block("sh", "medrd train run/config.yaml --out run --set train.epoch=3", "a reason"),
        block("sh", "medrd compare configs/compare/smoke.yaml --out x --set seed=1", "a reason"),
        block("sh", "medrd tune configs/tune/rd4ad.yaml --out x --set spice=1", "a reason"),
        block("sh", "ray job submit -- medrd tune nothing.yaml --out x", "a reason"),
        block("sh", "make coffee", "a reason"),
        block("sh", "python benchmarks/metrics.py --fly", "a reason"),
        block("sh", "curl example.org", "a reason"),
        block("python", "import medrd\nmedrd.fly('run')", "a reason"),
        block("python", "import medrd\nmedrd.load('nothing')"),
        block("yaml", "train: {epoch: 3}"),
        block("json", '{"format": 1, "…": 0, "fly": 2}', None, 0, "configs/x.json"),
        block("json", '{"format": 1, "…": 0, "error": "B"}', None, 0, "configs/x.json"),
        block("json", '{"format": 1, "error": "A", "path": "b"}', None, 0, "configs/x.json"),
        block("text", "brats/  one\nmvtec/  two", None, 0, "configs"),
        block("console", "$ medrd --help"),
    ],
    ids=lambda snippet: snippet.text.replace("\n", " "),
)
def test_what_cannot_be_done_is_noticed(snippet: Snippet, reader: Reader) -> None:
    (reader.folder / "configs" / "x.json").write_text('{"format": 1, "error": "A", "path": "/b"}')
    with pytest.raises((AssertionError, MedrdError)):
        reader.follow(snippet)


@pytest.mark.parametrize(
    "comment",
    [
        "<!-- snippet with: 20 epochs => 1 epoch -->",  # not in the block
        "<!-- snippet with: phantom, demo -->",
        "<!-- snippet not run; no colon -->",
        "<!-- snippet shows: x.json -->\n\nText before the block.",
    ],
)
def test_a_comment_that_means_nothing_is_noticed(comment: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{comment}\n```sh\nmedrd phantom --out brains\n```\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md"):
        read_snippets(page)
