"""The report in a real browser: it needs no network, is accessible, and shows hostile names as text."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, sync_playwright

from sparklet.app.report.page import ReportCache
from sparklet.app.report.page import page as page_of
from sparklet.model import Failure, RunOptions, ShardRecord, ShardResult, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_files import planned_shard
from sparklet.planning.planner import plan
from sparklet.runs.manifest import ShardTable
from tests.functional.report.test_server import serving
from tests.stand_ins.memory import FakeClock
from tests.unit.cli.conftest import RUN, Terminal, terminal
from tests.world import SCRIPT

__all__ = ["terminal"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "<img src=x onerror=alert(1)>"
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")

pytestmark = pytest.mark.skipif(
    not CHROMIUM and not os.environ.get("REQUIRE_BROWSER"), reason="no chromium is installed (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def document(terminal: Terminal) -> dict[str, Any]:
    """The report of a run of 30 shards, of which one has failed; its file and its cause have hostile names."""
    world = terminal.world
    world.put(29)
    world.store.put(f"s3://data/in/{HOSTILE}.csv", b"x")
    world.store.put(SCRIPT, f"one = 1\ntwo = '{HOSTILE}'\nthree = 3\n".encode())
    bad = Failure("ValueError", f"</script>{HOSTILE}.csv at line 2 of daily.py", retryable=False)
    failing = {"number": -1}

    def work(number: int) -> ShardResult | Failure:
        world.clock.advance(1 + number % 3)
        return bad if number == failing["number"] else ShardResult(rows=1, output_bytes=10, memory_mb=400 + number)

    run = new_run(world.deployment, world.request(options=RunOptions(max_objects=1, tolerated_failure_count=1)))
    plan(world.deployment, run.run_id)
    for record in world.ledger.shards.list(RUN):
        if HOSTILE in planned_shard(world.deployment, record).objects[0].name:
            failing["number"] = record.number
    terminal.do = work
    terminal.types("watch", RUN)
    report: dict[str, Any] = terminal.types("report", RUN, "--json").document
    shards = report["shard_table"]  # workers in memory have no logs, so their names are added here
    shards["columns"]["worker"], shards["workers"] = [number % 3 for number in range(30)], ["w0", "w1", HOSTILE]
    return report


class Observed:
    """The requests and the errors of a page."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._message)
        page.on("dialog", self._dialog)

    def _message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _dialog(self, dialog: Dialog) -> None:
        self.errors.append(f"dialog {dialog.message}")
        dialog.dismiss()


Show = Callable[..., tuple[Page, Observed]]


@pytest.fixture
def show(browser: Browser, document: dict[str, Any], tmp_path: Path) -> Show:
    """A function that opens the report of the document in its present state."""

    def shown(scheme: Literal["light", "dark"] = "light", width: int = 1200) -> tuple[Page, Observed]:
        path = tmp_path / "report.html"
        path.write_text(page_of(document, RUN), encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        observed = Observed(page)
        page.goto(path.as_uri())
        wait(page)
        return page, observed

    return shown


def wait(page: Page) -> None:
    """Wait until all plots are drawn."""
    page.wait_for_selector("main .plot", state="attached")
    page.wait_for_selector(".plot:not([data-drawn])", state="detached")


def test_all_plots_are_drawn_without_a_network_request(show: Show) -> None:
    page, observed = show()

    assert page.locator(".plot svg").count() == 6
    assert observed.errors == []
    assert {url.partition(":")[0] for url in observed.requests} <= {"file", "data", "blob"}
    assert len([url for url in observed.requests if url.startswith("file")]) == 1
    assert page.locator("#rows tr").count() == 30
    assert "SUCCEEDED WITH FAILURES" in page.inner_text("#head")


def test_the_cause_is_named_first_and_hostile_names_stay_text(show: Show) -> None:
    page, observed = show()

    # The heading is not the file, which comes first in the message.
    assert page.locator("main h3").first.inner_text().startswith("ValueError: ")
    assert f"s3://data/in/{HOSTILE}.csv" in page.inner_text("#why dl")
    assert page.locator("main section").first.get_attribute("id") == "why"
    assert f"</script>{HOSTILE}" in page.inner_text("#why")
    assert page.inner_text("#why mark").split() == ["2", "two", "=", *f"'{HOSTILE}'".split()]
    assert f"sparklet redrive {RUN}" in page.inner_text("#why code")
    assert page.locator("img").count() == 0 and observed.errors == []


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_accessible_in_each_scheme_and_width(show: Show, scheme: str, width: int) -> None:
    page, _ = show(scheme, width)

    results = Axe().run(page)

    assert results.response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_shards_are_filtered_and_sorted_by_keys(show: Show) -> None:
    page, _ = show()

    page.focus("#search")
    page.keyboard.type("valueerror")
    assert page.locator("#rows tr").count() == 1 and "1 shard" in page.inner_text("#found")
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.press("Tab")
    page.keyboard.type("SUCC")
    assert "29 shards" in page.inner_text("#found")
    page.focus("#shards th[data-name=shard] button")
    page.keyboard.press("Enter")
    assert page.inner_text("#rows tr:first-child th") in ("0", "1")
    assert page.get_attribute("#shards th[data-name=shard]", "aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert page.get_attribute("#shards th[data-name=shard]", "aria-sort") == "descending"


def test_a_large_runs_plots_are_sampled_and_all_shards_filtered(
    show: Show, document: dict[str, Any], tmp_path: Path
) -> None:
    table = ShardTable(0.0)
    for number in range(30_000):
        failed, began_s = number % 100 == 99, 10.0 + number / 100
        record = ShardRecord(
            *("run", number, "part", 0, 1, 1, 1000 + number),
            state=ShardState.FAILED if failed else ShardState.SUCCEEDED,
            attempts=1,
            started_s=began_s,
            changed_s=began_s + 1 + number % 7,
            error_class="ValueError" if failed else "",
            error_message=f"line {number}" if failed else "",
            log_stream=f"worker {number % 500}",
            memory_mb=700,
        )
        table.add(record)
    document["shard_table"] = table.document()
    document["inputs"]["names"] = [f"day-{n}.csv" for n in document["shard_table"]["columns"]["shard"]]

    page, observed = show()

    assert "Of 30,000 shards" in page.inner_text("#sampled")
    page.fill("#search", "line 29899")
    assert page.locator("#rows tr").count() == 1
    page.fill("#search", "")
    page.select_option("#state", "FAILED")
    assert page.inner_text("#found").startswith("300 shards")  # all failed shards, sampled or not
    page.click("#next")
    assert "page 2 of 6" in page.inner_text("#found")
    page.select_option("#state", "")
    page.fill("#search", "DAY-29899.csv")  # an input that the present page does not show
    assert page.inner_text("#rows tr th") == "29,899"
    page.fill("#search", "")
    assert observed.errors == []
    assert (tmp_path / "report.html").stat().st_size < 5_000_000 + 900_000  # of which 900,000 are the plotting library


def test_the_pace_is_computed_from_a_workers_shards(show: Show, document: dict[str, Any]) -> None:
    """One worker did 24 shards of 2 s in 49 s, so 30 a minute; a bar of 0.8 s must not make that 73."""
    table = ShardTable(0.0)
    for number in range(24):
        began_s = 1.0 + 2 * number
        shard = ShardRecord("run", number, "part", 0, 1, 1, 1000, state=ShardState.SUCCEEDED, attempts=1)
        table.add(replace(shard, started_s=began_s, changed_s=began_s + 2))
    document["shard_table"], document["inputs"]["names"] = table.document(), []

    page, _ = show()

    assert "Pace: up to 30 shards a minute" in page.inner_text("#pace")


def test_a_split_shard_is_shown_with_its_work(show: Show, document: dict[str, Any]) -> None:
    document["shard_table"]["columns"]["state"][0] = "SPLIT"

    page, observed = show()

    assert "SPLIT" in (page.text_content("#workers svg") or "") and observed.errors == []
    page.select_option("#state", "SPLIT")
    assert page.inner_text("#found") == "1 shard"


def test_a_printed_report_has_everything(show: Show, document: dict[str, Any]) -> None:
    """Dark colours, and what a screen scrolls, folds or shows on a further page, are all legible on paper."""
    document["causes"][0]["script"]["lines"][0] = "long " * 100
    columns = document["shard_table"]["columns"]
    for name, values in columns.items():
        columns[name] = values * 3
    document["inputs"]["names"] *= 3
    page, _ = show("dark", 800)
    assert page.locator("#rows tr").count() == 50

    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")

    for hidden in ("#search", "nav", "text=Copy >> nth=0"):
        assert not page.is_visible(hidden)
    for shown in ("#why code", ".plot svg >> nth=0", "#shards th button >> nth=0"):
        assert page.is_visible(shown)
    assert page.locator("#rows tr").count() == 90
    assert page.locator("#rows details:not([open])").count() == 0 < page.locator("#rows details[open]").count()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    dark_ink = "getComputedStyle(document.querySelector('.plot svg text')).fill"
    assert page.evaluate(dark_ink) == "rgb(28, 33, 39)"
    wider = "[...document.querySelectorAll('pre, .plot svg')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert page.evaluate(wider) == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#rows tr").count() == 50


def test_a_row_is_one_line_until_its_details_are_opened(show: Show, document: dict[str, Any]) -> None:
    document["shard_table"]["causes"] = [["AnalysisException", "a column cannot be resolved " * 9 + "(line 2)"]]
    document["printed"] = [f"{HOSTILE}\nrows 7\n"] * len(document["shard_table"]["columns"]["shard"])
    page, _ = show()

    titles = page.locator("#shards thead th").all_inner_texts()
    heights = "[...new Set([...document.querySelectorAll('#rows tr')].map((row) => row.offsetHeight))].length"

    assert titles[:5] == ["shard", "last failure", "input", "state", "printed"]
    assert "engine" not in titles  # a column without values is left out
    assert page.evaluate(heights) == 1
    page.click("#rows summary >> nth=0")
    assert page.evaluate(heights) == 2
    assert page.text_content("#rows .printed >> nth=0") == "rows 7"


def test_the_report_of_a_running_run_is_in_the_present_tense(show: Show, document: dict[str, Any]) -> None:
    document["run"]["ended_s"], document["status"]["state"] = None, "RUNNING"

    page, _ = show()

    assert page.get_attribute("#head progress", "value") == "30" and page.get_attribute("#head progress", "max") == "30"
    assert page.inner_text("#age").startswith("As of ") and page.inner_text("#age").endswith(" ago")
    assert page.inner_text("#what h2") == "What runs" and "the run has taken" in page.inner_text("#pace")
    assert page.inner_text("#why h2") == "Why 1 shard failed so far"


def test_the_list_of_runs_has_counts_and_durations(browser: Browser, document: dict[str, Any]) -> None:
    counts = {"total": 9, "pending": 3, "running": 1, "succeeded": 4, "failed": 1}
    ended = {"run_id": "old", "state": "SUCCEEDED", "shards": 73, "objects": 365, "input_bytes": 2**20, "ended": "then"}
    ended |= {"duration_s": 8.0, "rows": 1200, "cost_usd": 0.5, "marks": ["time ×2", "small files"]}
    ended |= {"created": "before"}
    unknown: dict[str, Any] = {"duration_s": None, "rows": None, "cost_usd": None, "marks": []}
    going = ended | unknown | {"run_id": RUN, "state": "RUNNING", "shards": 9, "ended": None, "created": "now"}
    runs = [going | {"counts": counts, "took_s": 65.0}, ended | {"counts": {"failed": 0}, "took_s": 9.0}]
    looks = ReportCache(lambda run_id: {"report": document} if run_id else {"runs": runs}, FakeClock())
    with serving(page_of(None, "Sparklet"), looks) as server:
        page = browser.new_page()
        page.goto(server.address())
        page.wait_for_selector("main tbody tr")
        first, second = (row.locator("th, td").all_inner_texts() for row in page.locator("main tbody tr").all())
        assert first == [RUN, "RUNNING", "9", "1", "4", "1 min 5 s so far", "365", "1.0 MiB", "–", "–", "", "now"]
        assert second[3:] == ["0", "", "8.0 s", "365", "1.0 MiB", "1,200", "$0.5000", "time ×2, small files", "before"]
        assert Axe().run(page).response["violations"] == []

        page.click(f"text={RUN}")
        wait(page)
        page.click("text=All runs")

        page.wait_for_selector("main tbody tr")


def test_a_page_follows_its_run_without_reloading(browser: Browser, document: dict[str, Any]) -> None:
    clock, answers = FakeClock(), [document]
    ended = document["run"]["ended_s"]
    document["run"]["ended_s"], document["status"]["state"] = None, "RUNNING"
    looks = ReportCache(lambda run_id: {"report": answers[-1]} if run_id else {"runs": []}, clock)
    with serving(page_of(None, RUN), looks) as server:
        page = browser.new_page()
        observed = Observed(page)
        page.goto(server.address(RUN))
        wait(page)
        assert "token" not in page.url
        assert page.inner_text("#head .state") == "RUNNING"
        page.evaluate("window.stays = 1")
        page.fill("#search", "valueerror")
        run, status = {**document["run"], "ended_s": ended}, {**document["status"], "state": "FAILED"}
        answers.append({**document, "run": run, "status": status})
        clock.advance(1000)
        page.wait_for_selector("#head .state.FAILED")

        assert page.evaluate("window.stays") == 1  # the page was not loaded again
        assert page.input_value("#search") == "valueerror" and page.locator("#rows tr").count() == 1
        assert page.evaluate("document.activeElement.id") == "search"
        assert {
            url.partition("/?")[0].partition("/data")[0] for url in observed.requests if not url.startswith("data:")
        } == {f"http://127.0.0.1:{server.server_port}/{server.token}"}
        assert observed.errors == []
