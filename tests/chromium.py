"""A headless Chromium for tests of pages, which records its messages."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Playwright's handle on the system's Chromium, with WebGL in software; skips without one."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium to look at pages with; on Debian: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = driver.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()


@dataclass
class Looked:
    """A page that is open.

    Attributes
    ----------
    page
        Playwright's.
    requests
        Addresses that were asked for, the page's own first.
    complaints
        Errors and warnings of the console, and exceptions.
    """

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def pixels(self, selector: str) -> NDArray[np.uint8]:
        """(rows, columns, 3) of an element as it is seen."""
        shot = self.page.locator(selector).first.screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))


def look_at(browser: Any, path: Path, *, size: tuple[int, int] = (1280, 800)) -> Looked:
    """Open a file as a double click does, and wait until it says that it is ready."""
    width, height = size
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(120_000)  # software WebGL on a busy machine
    looked = Looked(page)
    page.on("request", lambda request: looked.requests.append(request.url))
    page.on("pageerror", lambda error: looked.complaints.append(str(error)))
    page.on(
        "console",
        lambda line: (
            looked.complaints.append(line.text) if line.type in ("error", "warning") else None
        ),
    )
    page.goto(path.as_uri())
    return looked
