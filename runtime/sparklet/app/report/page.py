"""A report as one HTML file that needs no network: the document, the plotting library and what draws them.

Only the page's own scripts run, by their hashes, and nothing of it reaches another host (Content-Security-Policy). The
plotting library, Vega-Lite, is bundled by ``vl-convert-python`` once for each version and kept in the user's cache.

``sparklet ui``: the report's page for runs as they are, read-only and for this machine's user alone.

It listens on localhost. The path that the command prints begins with a token: a cookie would go to every port of this
machine, and two servers would overwrite each other's. Requests for another host (DNS rebinding), of other origins, or
below another path are refused, and no page may frame this one. The browser's history keeps the address, which is of no
use once the command has ended.

Each look at an open run is a pass over its shards. Between two, whichever page asks, lie ``PAUSE_S`` at least and a
``1/OPEN_SHARE`` of the time since the first: a page that is open for a day makes some 150 passes. Over 10,000 shards of
0.6 KB a pass reads 1,500 units of DynamoDB at 0.125 USD a million (0.00019 USD), and for causes at most 200 examples,
100 further shards and their lines of the plan (0.00013 USD): 150 passes cost less than 5 cents. Their list is read
every two seconds: 1,000 runs of 1 KB are at most 250 units, 6 cents for an hour in which a page is open, and the states
of an open run of 10,000 shards, by the index, some 125 more; those of ended runs, and their manifests, are read once.
"""

import base64
import hashlib
import hmac
import html
import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from math import inf
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from sparklet.errors import SettingsError, SparkletError
from sparklet.local.state import user_folder
from sparklet.ports import Clock

VEGA_LITE = "6.4"
_FOLDER = Path(__file__).parent


def page(report: Mapping[str, Any] | None, title: str) -> str:
    """The page of a report; without one, a page that asks its server for it (``server``).

    Raises
    ------
    SettingsError
        The plotting library is not installed.
    """
    library, script = vega_lite(), (_FOLDER / "page.js").read_text(encoding="utf-8")
    # A value with </script> would end the element that holds the document.
    document = json.dumps(report, separators=(",", ":"), default=str).replace("<", "\\u003c")
    return Template((_FOLDER / "page.html").read_text(encoding="utf-8")).substitute(
        live="0" if report else "1",
        connect="'none'" if report else "'self'",
        hashes=" ".join(f"'sha256-{_hash(code)}'" for code in (library, script)),
        title=html.escape(title),
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        report=document,
        library=library,
        script=script,
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def vega_lite() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; SettingsError without the package that has them."""
    try:
        import vl_convert
    except ImportError:
        raise SettingsError("a report is drawn with vl-convert-python; pip install 'sparklet[report]'") from None
    name = f"vega-lite-{VEGA_LITE}-of-{version('vl-convert-python')}.js"
    with suppress(OSError, SettingsError):  # not there yet, or the user has no folder for it
        return (user_folder("cache") / name).read_text(encoding="utf-8")
    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE))
    with suppress(OSError, SettingsError):  # it is bundled again next time
        cache_path = user_folder("cache") / name
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        draft = cache_path.with_suffix(f".{os.getpid()}")
        draft.write_text(bundle, encoding="utf-8")
        # A rename, so that another report that is made now reads no half of it.
        draft.replace(cache_path)
    return bundle


PAUSE_S, OPEN_SHARE = 2.0, 16
HOST = "127.0.0.1"
ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # which the page's own policy, a meta element, cannot say
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Look = Callable[[str], dict[str, Any]]  # a run's report by its id; "": {"runs": […]}


@dataclass
class Looks:
    """Answers pages: each run is looked at again only once its pause is over; ended ones no more."""

    look: Look
    clock: Clock
    passes: int = 0  # over shards
    _begun_s: dict[str, float] = field(default_factory=dict)  # when each was first asked for
    _answers: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)  # until when, and what
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, run_id: str) -> dict[str, Any]:
        """The newest report, and after how many seconds to ask again; 0: never."""
        # Held while it looks, so that pages that ask at once share one pass over the shards.
        with self._lock:
            now_s = self.clock.now_s()
            until_s, reply = self._answers.get(run_id, (0.0, {}))
            if now_s < until_s:
                return reply | {"next_s": round(min(until_s - now_s, 3600.0) + 0.1, 1)} if until_s < inf else reply
            reply = self.look(run_id)
            self.passes += bool(run_id)
            ended_s = self.clock.now_s()
            open_s = ended_s - self._begun_s.setdefault(run_id, now_s)
            pause_s = max(PAUSE_S, open_s / OPEN_SHARE) if run_id else PAUSE_S  # a list costs no pass over shards
            if run_id and reply["report"]["run"]["ended_s"]:
                reply, pause_s = reply | {"next_s": 0}, inf
            else:
                reply = reply | {"next_s": round(pause_s + 0.1, 1)}
            self._answers[run_id] = ended_s + pause_s, reply
            return reply


class Server(ThreadingHTTPServer):
    """Serves one page and its data on localhost."""

    daemon_threads = True

    def __init__(self, page: str, looks: Looks, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.page = page.encode()
        self.looks = looks
        self.token = secrets.token_urlsafe(24)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def address(self, run_id: str = "") -> str:
        """What the user opens."""
        query = f"?{urlencode({'run': run_id})}" if run_id else ""
        return f"http://{HOST}:{self.server_port}/{self.token}/{query}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "sparklet", ""

    def do_GET(self) -> None:
        """The page, its data, or a refusal."""
        url = urlsplit(self.path)
        below = f"/{self.server.token}/"
        origin = self.headers.get("Origin", "")
        if self.headers.get("Host") not in self.server.hosts or (
            origin and urlsplit(origin).netloc not in self.server.hosts
        ):
            return self._say(HTTPStatus.FORBIDDEN, "another host or origin")
        # In constant time, or the time of an answer would tell the token letter by letter. As bytes, since a path may
        # hold what is not ASCII, which `compare_digest` refuses in texts.
        if not hmac.compare_digest(url.path[: len(below)].encode(), below.encode()):
            return self._say(HTTPStatus.FORBIDDEN, "open the address that sparklet ui has printed")
        path = url.path[len(below) :]
        if not path:
            return self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        if path != "data":
            return self._say(HTTPStatus.NOT_FOUND, "there is only the page and its data")
        run_id = parse_qs(url.query).get("run", [""])[0]
        try:
            body = json.dumps(self.server.looks.answer(run_id), default=str).encode()
        except SparkletError as error:
            return self._say(HTTPStatus.BAD_GATEWAY, str(error))
        return self._send(HTTPStatus.OK, body, "application/json")

    def _say(self, status: HTTPStatus, why: str) -> None:
        self._send(status, json.dumps({"error": why}).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**ALWAYS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: an address may have the token."""
