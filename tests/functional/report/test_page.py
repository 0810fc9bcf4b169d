"""The report in a real browser: it is drawn without a network, for keys and screen readers, and names stay text."""

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page, Request, sync_playwright

from sparklet.model import Failure, RunOptions, ShardRecord, ShardResult, ShardState
from sparklet.planning.new_run import new_run
from sparklet.planning.plan_files import planned_shard
from sparklet.planning.planner import plan
from sparklet.report.page import page as page_of
from sparklet.report.server import Looks, Server
from sparklet.runs.shard_table import ShardTable
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
    """The report of a run of 30 shards; one has failed, its file and its cause have hostile names."""
    world = terminal.world
    world.put(29)
    world.store.put(f"s3://data/in/{HOSTILE}.csv", b"x")
    world.store.put(SCRIPT, f"one = 1\ntwo = '{HOSTILE}'\nthree = 3\n".encode())
    bad = Failure("ValueError", f"</script>{HOSTILE}.csv at line 2 of daily.py", retryable=False)
    failing = {"number": -1}

    def work(number: int) -> ShardResult | Failure:
        world.clock.advance(1 + number % 3)
        return bad if number == failing["number"] else ShardResult(rows=1, output_bytes=10, memory_mb=400 + number)

    run = new_run(world.at, world.request(options=RunOptions(max_objects=1, tolerated_failure_count=1)))
    plan(world.at, run.run_id)
    for record in world.ledger.shards.list(RUN):
        if HOSTILE in planned_shard(world.at, record).objects[0].name:
            failing["number"] = record.number
    terminal.do = work
    terminal.types("watch", RUN)
    found: dict[str, Any] = terminal.types("report", RUN, "--json").document
    shards = found["shard_table"]  # in memory no worker has a log
    shards["columns"]["worker"], shards["workers"] = [number % 3 for number in range(30)], ["w0", "w1", HOSTILE]
    return found


class Seen:
    """What a page has asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._request)
        page.on("console", self._message)
        page.on("pageerror", self._error)
        page.on("dialog", self._dialog)

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)

    def _message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _error(self, error: Error) -> None:
        self.complaints.append(str(error))

    def _dialog(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog {dialog.message}")
        dialog.dismiss()


def shown(
    browser: Browser, path: Path, document: Any, *, scheme: str = "light", width: int = 1200
) -> tuple[Page, Seen]:
    path.write_text(page_of(document, RUN), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    seen = Seen(page)
    page.goto(path.as_uri())
    wait(page)
    return page, seen


def wait(page: Page) -> None:
    """Until all is drawn."""
    page.wait_for_selector("main .plot", state="attached")
    page.wait_for_selector(".plot:not([data-drawn])", state="detached")


def test_all_is_drawn_and_no_request_leaves(browser: Browser, document: dict[str, Any], tmp_path: Path) -> None:
    page, seen = shown(browser, tmp_path / "report.html", document)

    assert page.locator(".plot svg").count() == 6
    assert seen.complaints == []
    assert {url.partition(":")[0] for url in seen.requests} <= {"file", "data", "blob"}
    assert len([url for url in seen.requests if url.startswith("file")]) == 1
    assert page.locator("#rows tr").count() == 30
    assert "SUCCEEDED WITH FAILURES" in page.inner_text("#head")


def test_the_cause_is_named_first_and_hostile_names_stay_text(
    browser: Browser, document: dict[str, Any], tmp_path: Path
) -> None:
    page, seen = shown(browser, tmp_path / "report.html", document)

    assert page.locator("main h3").first.inner_text().startswith("ValueError: ")  # not the file that came first
    assert f"s3://data/in/{HOSTILE}.csv" in page.inner_text("#why dl")
    assert page.locator("main section").first.get_attribute("id") == "why"
    assert f"</script>{HOSTILE}" in page.inner_text("#why")
    assert page.inner_text("#why mark").split() == ["2", "two", "=", *f"'{HOSTILE}'".split()]
    assert f"sparklet redrive {RUN}" in page.inner_text("#why code")
    assert page.locator("img").count() == 0 and seen.complaints == []


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out(
    browser: Browser, document: dict[str, Any], tmp_path: Path, scheme: str, width: int
) -> None:
    page, _ = shown(browser, tmp_path / "report.html", document, scheme=scheme, width=width)

    found = Axe().run(page)

    assert found.response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_shards_are_filtered_and_sorted_by_keys(browser: Browser, document: dict[str, Any], tmp_path: Path) -> None:
    page, _ = shown(browser, tmp_path / "report.html", document)

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


def test_a_large_run_is_filtered_and_says_what_it_leaves_out(
    browser: Browser, document: dict[str, Any], tmp_path: Path
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

    page, seen = shown(browser, tmp_path / "report.html", document)

    assert "Of 30,000 shards" in page.inner_text("#sampled")
    page.fill("#search", "line 29899")
    assert page.locator("#rows tr").count() == 1
    page.fill("#search", "")
    page.select_option("#state", "FAILED")
    assert page.inner_text("#found").startswith("300 shards")  # each of them
    page.click("#next")
    assert "page 2 of 6" in page.inner_text("#found")
    assert seen.complaints == []
    assert (tmp_path / "report.html").stat().st_size < 5_000_000 + 900_000  # beside the plotting library


def test_the_pace_is_what_a_worker_does(browser: Browser, document: dict[str, Any], tmp_path: Path) -> None:
    """One worker did 24 shards of 2 s in 49 s: 30 a minute, of which a bar of 0.8 s may not make 73."""
    table = ShardTable(0.0)
    for number in range(24):
        began_s = 1.0 + 2 * number
        shard = ShardRecord("run", number, "part", 0, 1, 1, 1000, state=ShardState.SUCCEEDED, attempts=1)
        table.add(replace(shard, started_s=began_s, changed_s=began_s + 2))
    document["shard_table"] = table.document()

    page, _ = shown(browser, tmp_path / "report.html", document)

    assert "Pace: up to 30 shards a minute" in page.inner_text("#pace")


def test_on_paper_there_are_no_controls(browser: Browser, document: dict[str, Any], tmp_path: Path) -> None:
    page, _ = shown(browser, tmp_path / "report.html", document)

    page.emulate_media(media="print")

    assert not page.is_visible("#search") and not page.is_visible("nav")
    assert page.is_visible("#why code") and page.is_visible(".plot svg >> nth=0")


def test_a_page_follows_its_run_without_reloading(browser: Browser, document: dict[str, Any]) -> None:
    clock, answers = FakeClock(), [document]
    ended = document["run"]["ended_s"]
    document["run"]["ended_s"], document["status"]["state"] = None, "RUNNING"
    looks = Looks(lambda run_id: {"report": answers[-1]} if run_id else {"runs": []}, clock)
    with Server(page_of(None, RUN), looks) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        seen = Seen(page)
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

        assert page.evaluate("window.stays") == 1  # it was not loaded again
        assert page.input_value("#search") == "valueerror" and page.locator("#rows tr").count() == 1
        assert page.evaluate("document.activeElement.id") == "search"
        assert {
            url.partition("/?")[0].partition("/data")[0] for url in seen.requests if not url.startswith("data:")
        } == {f"http://127.0.0.1:{server.server_port}/{server.token}"}
        assert seen.complaints == []
        server.shutdown()
