"""``sparklet ui``: which requests get an answer, and how many reads a page costs that is left open."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sparklet.app.report.page import ReportCache, Server
from sparklet.errors import RunNotFoundError
from tests.stand_ins.memory import FakeClock

DAY_S = 86_400.0


class Ledger:
    """A ledger for the server: it answers reads of a report, and counts them."""

    def __init__(self, takes_s: float = 0.0, ended_s: float | None = None) -> None:
        self.clock, self.takes_s, self.ended_s, self.looks = FakeClock(), takes_s, ended_s, 0
        self.served = ReportCache(self.look, self.clock)

    def look(self, run_id: str) -> dict[str, Any]:
        self.looks += 1
        self.clock.advance(self.takes_s)
        if run_id == "nowhere":
            raise RunNotFoundError("there is no run nowhere")
        return {"report": {"run": {"id": run_id, "ended_s": self.ended_s}}} if run_id else {"runs": []}


@contextmanager
def serving(page: str, looks: ReportCache) -> Iterator[Server]:
    with Server(page, looks) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving("<!DOCTYPE html>the page", Ledger().served) as server:
        yield server


def get(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def path_of(server: Server, path: str = "") -> str:
    return f"/{server.token}/{path}"


def test_the_address_opens_the_page_and_its_data(server: Server) -> None:
    address = server.address("run-1").partition(str(server.server_port))[2]

    assert address == path_of(server, "?run=run-1") and get(server, address)[2] == "<!DOCTYPE html>the page"
    data = json.loads(get(server, path_of(server, "data?run=run-1"))[2])
    assert data["report"]["run"]["id"] == "run-1" and data["next_s"] > 0


def test_no_answer_sets_a_cookie_or_can_be_framed(server: Server) -> None:
    for path in (path_of(server), path_of(server, "data"), "/", path_of(server, "nowhere")):
        headers = get(server, path)[1]
        assert "Set-Cookie" not in headers and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'" and headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize(
    "path", ["/", "/data", "", "//", "//data", "/wrong/", "/wrong/data", "/data/{token}", "/{token}"]
)
def test_any_other_path_is_refused_even_with_the_token(server: Server, path: str) -> None:
    path = path.format(token=server.token)
    for address in (path, f"{path}?token={server.token}"):
        status, _, body = get(server, address, Cookie=f"sparklet={server.token}")
        assert status == 403 and "the page" not in body


@pytest.mark.parametrize(
    "header",
    [{"Host": "evil.example"}, {"Host": "evil.example:80"}, {"Origin": "http://evil.example"}, {"Origin": "null"}],
)
def test_other_hosts_and_origins_are_refused(server: Server, header: dict[str, str]) -> None:
    assert get(server, path_of(server), **header)[0] == 403


def test_the_server_refuses_every_change(server: Server) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert get(server, path_of(server), method)[0] == 501


def test_an_error_is_returned_and_the_server_goes_on(server: Server) -> None:
    status, _, body = get(server, path_of(server, "data?run=nowhere"))

    assert status == 502 and json.loads(body) == {"error": "there is no run nowhere"}
    assert get(server, path_of(server, "elsewhere"))[0] == 404
    assert get(server, path_of(server, "data"))[0] == 200


@pytest.mark.parametrize("takes_s", [0.0, 3.0])
def test_a_page_that_is_open_for_a_day_reads_little(takes_s: float) -> None:
    """Three pages request data at the times that the server's answers set; the estimate of costs relies on this."""
    ledger = Ledger(takes_s)
    looks, clock = ledger.served, ledger.clock
    began_s, requests_s = clock.now_s(), [clock.now_s()] * 3

    while clock.now_s() < began_s + DAY_S:
        page = requests_s.index(min(requests_s))
        clock.advance(max(0.0, requests_s[page] - clock.now_s()))
        requests_s[page] = clock.now_s() + looks.get("run-1")["next_s"]

    assert 100 < ledger.looks <= 150
    assert looks.passes == ledger.looks


def test_a_list_stays_fresh_however_long_it_is_open() -> None:
    """A run's page is read only every four minutes after an hour; the list of runs is not."""
    ledger = Ledger()
    ledger.served.get("")
    ledger.clock.advance(3600)

    assert ledger.served.get("")["next_s"] < 3


def test_an_ended_run_is_read_once() -> None:
    ledger = Ledger(ended_s=1.0)

    answers = [ledger.served.get("run-1") for _ in range(3)]

    assert ledger.looks == 1 and {each["next_s"] for each in answers} == {0}
