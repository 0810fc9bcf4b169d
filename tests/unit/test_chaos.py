"""What ``make chaos`` rests on: the proxy's faults, plans by seed, and the sums."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest

from benchmarks.chaos.__main__ import wrong
from benchmarks.chaos.plans import FORMATS, KINDS, STAGED, plan, seeds
from benchmarks.chaos.proxy import FINE, Fault, Mishap, Proxy, Request, Strike
from benchmarks.chaos.table import table
from tests.stand_ins.http_server import serving
from tests.waiting import deadline_s

pytestmark = pytest.mark.nightly


class Upstream(BaseHTTPRequestHandler):
    """Remembers bodies."""

    done: list[bytes]

    def do_PUT(self) -> None:
        self.done.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Proxied:
    """A server behind a proxy; ``faults`` are what its next requests meet."""

    def __init__(self, address: str, done: list[bytes]) -> None:
        self.faults: list[Fault] = []
        self.done, self._at = done, urlsplit(address).netloc
        self.address = ""

    def decide(self, request: Request) -> Fault:
        return self.faults.pop(0) if self.faults else FINE

    def put(self, body: bytes) -> int:
        with closing(HTTPConnection(urlsplit(self.address).netloc, timeout=deadline_s())) as connection:
            connection.request("PUT", "/bucket/key", body)
            return connection.getresponse().status


@pytest.fixture
def proxied() -> Iterator[Proxied]:
    handler = type("Handler", (Upstream,), {"done": []})
    with serving(handler) as address:
        proxy = Proxy(address)
        world = Proxied(proxy.upstream, handler.done)  # type: ignore[attr-defined]
        world.address = proxy.listen(world.decide)
        yield world
        proxy.close()


def test_all_else_passes_and_a_refusal_has_no_effect(proxied: Proxied) -> None:
    proxied.faults = [Mishap(False, "error", 0.0), Strike(False, lambda: None, kills=False)]

    assert [proxied.put(b"refused"), proxied.put(b"while stopped"), proxied.put(b"fine")] == [503, 200, 200]
    assert proxied.done == [b"while stopped", b"fine"]


@pytest.mark.parametrize("kind", ["reset", "drop"])
@pytest.mark.parametrize("after", [False, True])
def test_a_lost_answer_comes_before_or_after_the_effect(proxied: Proxied, kind: str, after: bool) -> None:
    proxied.faults = [Mishap(after, kind, 0.05)]

    with pytest.raises(ConnectionError):
        proxied.put(b"x")

    assert proxied.done == ([b"x"] if after else [])


@pytest.mark.parametrize("after", [False, True])
def test_a_killed_workers_request_goes_no_further(proxied: Proxied, after: bool) -> None:
    done_then: list[int] = []
    proxied.faults = [Strike(after, lambda: done_then.append(len(proxied.done)), kills=True)]

    with pytest.raises(ConnectionError):
        proxied.put(b"x")

    assert (done_then, len(proxied.done)) == ([int(after)], int(after))


def test_a_block_of_seeds_has_every_combination() -> None:
    plans = [plan(seed) for seed in seeds(1)]
    tried = Counter((each.format, each.way, each.kind) for each in plans)

    assert plan(7) == plan(7)
    for format_ in FORMATS:
        for kind in KINDS:
            ways = ["staged"] if kind in STAGED else ["staged", "direct"]
            assert all(tried[format_, way, kind] for way in ways)
        assert tried[format_, "plain", "kill at a step"]


def test_the_table_adds_up_kills_and_leaves_the_baseline_out() -> None:
    sums = {"lost": 0, "duplicated": 0, "partial": 0, "unaccounted": 0, "seed": 1, "format": "delta"}
    sums |= {"commit": "4104858", "measured": "2026-11-22"}
    kills = {"kill at a step": 4, "kill the checker": 2, "reset": 5}
    results = [{"way": "staged", "kind": kind, "struck": ["…"] * n, **sums} for kind, n in kills.items()]
    lost = {**sums, "lost": 7, "way": "plain", "kind": "kill at a step", "struck": ["…"]}

    ours, _, baseline = table([*results, lost]).partition("the baseline")

    assert "| *all kills* | 2 | 6 | 0 |" in ours
    assert "| *all kills* | 1 | 1 | 7 |" in baseline


def test_a_campaign_of_a_few_trials_shows_nothing() -> None:
    fine = {"way": "staged", "lost": 0, "duplicated": 0, "partial": 0, "unaccounted": 0}

    assert wrong([fine], least=2)
    assert wrong([], least=1)
    assert not wrong([fine, fine], least=2)
    assert wrong([fine, {**fine, "lost": 1}], least=2)
