"""Draw docs/figures/report.png: a page of the demo's report, as Chromium shows it.

Usage, after make demo: python docs/make_report_figure.py demo/maps/report.html
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZE = {"width": 1360, "height": 720}
FIGURE = Path(__file__).parent / "figures" / "report.png"


def main(page_path: Path) -> None:
    """Open the page, wait for the viewer, take a picture."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(600_000)  # software WebGL, and maybe a busy machine
        page.goto(page_path.resolve().as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        page.wait_for_timeout(3000)
        page.screenshot(path=FIGURE)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
