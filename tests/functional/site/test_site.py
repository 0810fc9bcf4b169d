"""The documentation's site, opened from a folder without a server: its first screen, its links and its search."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tests.functional.report.test_page import browser

__all__ = ["browser"]

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-docs/bin/python"
LATER = ("docs/decisions/", "docs/benchmarks", "CHANGELOG", "CONTRIBUTING", "SECURITY")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON.exists(), reason="make docs-venv builds .venv-docs")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options: list[str | Path] = ["-q", "-E", "-c", "docs", "-d", folder / "doctrees"]
    subprocess.run([PYTHON, "-m", "sphinx", *options, ".", folder / "html"], cwd=ROOT, check=True, capture_output=True)
    return folder / "html"


@pytest.fixture
def page(browser: Browser, site: Path) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto((site / "docs/index.html").as_uri())
    yield page
    page.close()


def test_the_first_screen_has_what_sparklet_is_and_how_to_begin(page: Page) -> None:
    first = page.locator("article")

    assert first.locator("h1").inner_text().startswith("Sparklet")
    for part in ("text=ordinary PySpark scripts", "text=make venv", "text=sparklet run", "img"):
        box = first.locator(part).first.bounding_box()
        assert box and box["y"] < 900, part
    assert page.evaluate("document.querySelector('article img').naturalWidth") > 0


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("my Glue job", "sparklet run sales.py"),
        ("one output for each file", "--max-objects 1"),
        ("What failed", "sparklet explain"),
        ("What does it cost", "--explain"),
    ],
)
def test_a_question_is_answered_after_one_click(page: Page, question: str, answer: str) -> None:
    page.locator("article tr", has_text=question).locator("a").first.click()

    box = page.locator("article", has_text=answer).locator(f"text={answer}").first.bounding_box()
    assert box and box["y"] < 900


@pytest.mark.parametrize("words", ["redrive", "isolate", "report", "cost", "glue", "schema"])
def test_guides_are_found_before_decisions(page: Page, site: Path, words: str) -> None:
    page.goto(f"{(site / 'search.html').as_uri()}?q={words}")
    page.wait_for_selector("#search-results p.search-summary:has-text('found')")

    addresses = "(links) => links.map((link) => link.getAttribute('href'))"
    links = page.locator("#search-results li > a").evaluate_all(addresses)
    found = [link.partition(".html")[0] for link in links]
    later = [each.startswith(LATER) for each in found]

    assert found[0].startswith(("docs/guide/", "docs/reference/", "docs/tutorial", "README")), found[:5]
    assert later == sorted(later) and any(later)


@pytest.mark.parametrize("width", [1200, 400])
def test_the_home_page_is_accessible_in_each_width(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert Axe().run(page, context="article").response["violations"] == []
