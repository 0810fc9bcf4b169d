"""What ``make chaos`` rests on: the proxy's faults, plans by seed, and the sums."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest

from benchmarks.chaos.__main__ import wrong
from benchmarks.chaos.plans import FORMATS, KINDS, STAGED, plan, seeds
from benchmarks.chaos.proxy import FINE, Fault, Mishap, Proxy, Request, Strike
from benchmarks.chaos.steps import label
from benchmarks.chaos.strikes import MAX_MET, Strikes
from benchmarks.chaos.table import line, table
from tests.stand_ins.http_server import serving


class Upstream(BaseHTTPRequestHandler):
    """Remembers bodies, answers with their lengths."""

    protocol_version = "HTTP/1.1"
    done: list[bytes]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.done.append(body)
        told = str(len(body)).encode()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(told), told))

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

    def put(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        with closing(HTTPConnection(urlsplit(self.address).netloc, timeout=10)) as connection:
            connection.request("PUT", "/bucket/key", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()


@pytest.fixture
def proxied() -> Iterator[Proxied]:
    handler = type("Handler", (Upstream,), {"done": []})
    with serving(handler) as address:
        proxy = Proxy(address)
        world = Proxied(proxy.upstream, handler.done)  # type: ignore[attr-defined]
        world.address = proxy.listen(world.decide)
        yield world
        proxy.close()


def test_requests_and_answers_pass_unchanged(proxied: Proxied) -> None:
    body = bytes(range(256)) * 2000

    assert proxied.put(body) == (200, b"512000")
    assert proxied.put(b"small", Expect="100-continue") == (200, b"5")
    assert proxied.done == [body, b"small"]


@pytest.mark.parametrize("kind", ["reset", "drop"])
@pytest.mark.parametrize("after", [False, True])
def test_a_lost_answer_comes_before_or_after_the_effect(proxied: Proxied, kind: str, after: bool) -> None:
    proxied.faults = [Mishap(after, kind, 0.05)]

    with pytest.raises(ConnectionError):
        proxied.put(b"x")

    assert proxied.done == ([b"x"] if after else [])


def test_a_refusal_has_no_effect(proxied: Proxied) -> None:
    proxied.faults = [Mishap(False, "error", 0.0)]

    status, _ = proxied.put(b"x")

    assert (status, proxied.done) == (503, [])


@pytest.mark.parametrize("after", [False, True])
def test_a_killed_workers_request_goes_no_further(proxied: Proxied, after: bool) -> None:
    done_then: list[int] = []
    proxied.faults = [Strike(after, lambda: done_then.append(len(proxied.done)), kills=True)]

    with pytest.raises(ConnectionError):
        proxied.put(b"x")

    assert (done_then, len(proxied.done)) == ([int(after)], int(after))


def test_a_stopped_workers_request_goes_on_when_it_wakes(proxied: Proxied) -> None:
    proxied.faults = [Strike(False, lambda: None, kills=False)]

    assert proxied.put(b"x") == (200, b"1")


def test_a_block_of_seeds_has_every_combination() -> None:
    plans = [plan(seed) for seed in seeds(1)]
    tried = Counter((each.format, each.way, each.kind) for each in plans)

    assert plan(7) == plan(7)
    for format_ in FORMATS:
        for kind in KINDS:
            ways = ["staged"] if kind in STAGED else ["staged", "direct"]
            assert all(tried[format_, way, kind] for way in ways)
        assert tried[format_, "plain", "kill at a step"]


class Target:
    """A worker that survives."""

    def kill(self) -> None:
        """Nothing."""


def succeeds(strikes: Strikes, role: str) -> Fault:
    """What a fresh worker meets that takes a shard's last step."""
    body = b'SET state = :wanted {":wanted": {"S": "SUCCEEDED"}}'
    step = Request("POST", "/", {"x-amz-target": "DynamoDB_20120810.UpdateItem"}, b"", body)
    return strikes.of(role)(Target(), step)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        ("kill at a step", {"shard 0": 3, "shard 2": 3, "commit 0": 3, "commit 1": 0, "checker": 0}),
        ("kill the committer", {"shard 0": 0, "commit 0": 3, "commit 1": 0}),
        ("twice at once", {"shard 0": 0, "commit 0": 0}),
        ("delay", {"shard 0": MAX_MET, "shard 1": MAX_MET, "commit 0": MAX_MET, "commit 1": 0}),
    ],
)
def test_each_worker_is_struck_so_often_and_no_more(kind: str, times: dict[str, int]) -> None:
    strikes = Strikes(replace(plan(1), kind=kind), lambda *_: None)

    for role, expected in times.items():
        assert sum(succeeds(strikes, role) is not FINE for _ in range(500)) == expected


@pytest.mark.parametrize(
    ("method", "path", "body", "name"),
    [
        ("PUT", "/sparklet/runs/r/writes/000000001-abc.json", b"", "PUT declaration"),
        ("GET", "/data/t?list-type=2&prefix=t%2F_delta_log%2F", b"", "LIST Delta log"),
        ("POST", "/sparklet?delete=", b"<Key>staged/r/000001-abc/part.parquet</Key>", "DELETE staged file"),
        ("PUT", "/data/w/db/t/metadata/00001-a.metadata.json", b"", "PUT Iceberg metadata"),
    ],
)
def test_a_request_has_its_steps_name(method: str, path: str, body: bytes, name: str) -> None:
    assert label(Request(method, path, {}, b"", body)) == name


def test_the_last_line_leaves_the_baseline_out() -> None:
    sums = {"lost": 1, "duplicated": 0, "partial": 0, "unaccounted": 0}
    results = [{"way": way, **sums} for way in ("plain", "staged", "plain", "direct")]

    assert line(results) == "trials=2 lost=2 duplicated=0 partial=0 unaccounted=0"


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
