"""Makes a report's page, one HTML file that needs no network, and serves it for ``sparklet ui``.

The file holds the report's document, the plotting library and the scripts that draw. Content-Security-Policy allows
only the page's own scripts, by their hashes, and no requests to other hosts. The plotting library, Vega-Lite, is
bundled by ``vl-convert-python`` once for each version and kept in the user's cache.

``sparklet ui`` serves the page with reports of runs as they are now, to this machine's user alone, and changes nothing.
It listens on localhost. The path that the command prints begins with a token; a cookie would be sent to every port of
this machine, and two servers would overwrite each other's cookie. Requests for another host (DNS rebinding), from other
origins or to another path are refused, and no page is allowed to frame this one. The browser's history keeps the
address, which is useless once the command has ended.

A new report of an open run needs a pass over its shards. After a pass, no page causes another one for at least
``PAUSE_S``, and for ``1/OPEN_SHARE`` of the time since the first pass: a page that is open for a day causes some 150
passes. Over 10,000 shards of 0.6 KB a pass reads 1,500 units of DynamoDB at 0.125 USD a million (0.00019 USD), and for
causes at most 200 examples, 100 further shards and their lines of the plan (0.00013 USD): 150 passes cost less than 5
cents. The list of runs is read every two seconds: 1,000 runs of 1 KB are at most 250 units, 6 cents for an hour in
which a page is open. The states of an open run of 10,000 shards are some 125 units more, by the index. States and
manifests of ended runs are read once.
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
    """Return the page of a report; if ``report`` is None, a page that requests reports from its ``Server``.

    Raises
    ------
    SettingsError
        If the plotting library is not installed.
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
    """Return Vega, Vega-Lite and Vega-Embed as one script; SettingsError if the package with them is not installed."""
    try:
        import vl_convert
    except ImportError:
        raise SettingsError(
            "a report's charts are drawn with vl-convert-python, which is not installed: pip install 'sparklet[report]'"
        ) from None
    name = f"vega-lite-{VEGA_LITE}-of-{version('vl-convert-python')}.js"
    with suppress(OSError, SettingsError):  # the script is not cached yet, or the user has no cache folder
        return (user_folder("cache") / name).read_text(encoding="utf-8")
    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE))
    with suppress(OSError, SettingsError):  # without a cache the script is bundled again next time
        cache_path = user_folder("cache") / name
        cache_path.parent.mkdir(parents=True, exist_ok=True)
        draft = cache_path.with_suffix(f".{os.getpid()}")
        draft.write_text(bundle, encoding="utf-8")
        # A rename, so that a command that makes a report at the same time never reads half a file.
        draft.replace(cache_path)
    return bundle


PAUSE_S, OPEN_SHARE = 2.0, 16
HOST = "127.0.0.1"
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    # The page's own policy is in a meta element, where browsers ignore frame-ancestors.
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Returns a run's report by its id, {"report": {…}}; for "" the list of runs, {"runs": […]}.
ReadReport = Callable[[str], dict[str, Any]]


@dataclass
class ReportCache:
    """Keeps reports for pages: an open run's report is read again only after a pause, an ended run's never."""

    read_report: ReadReport
    clock: Clock
    passes: int = 0  # over shards
    _first_s: dict[str, float] = field(default_factory=dict)  # by run id, when its report was read first
    _kept: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)  # time until which a report is kept
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, run_id: str) -> dict[str, Any]:
        """Return the newest report (for "" the list of runs), with ``next_s``, the seconds until a page's next request.

        ``next_s`` is 0 if the run has ended: its report does not change any more.
        """
        # Held during a pass over the shards, so that pages with simultaneous requests share this pass.
        with self._lock:
            now_s = self.clock.now_s()
            until_s, report = self._kept.get(run_id, (0.0, {}))
            if until_s == inf:
                return report
            if now_s < until_s:
                return report | {"next_s": round(min(until_s - now_s, 3600.0) + 0.1, 1)}
            report = self.read_report(run_id)
            self.passes += bool(run_id)
            read_s = self.clock.now_s()
            open_s = read_s - self._first_s.setdefault(run_id, now_s)
            pause_s = max(PAUSE_S, open_s / OPEN_SHARE) if run_id else PAUSE_S  # the list needs no pass over shards
            if run_id and report["report"]["run"]["ended_s"]:
                report, pause_s = report | {"next_s": 0}, inf
            else:
                report = report | {"next_s": round(pause_s + 0.1, 1)}
            self._kept[run_id] = read_s + pause_s, report
            return report


class Server(ThreadingHTTPServer):
    """Serves one page and its reports on localhost."""

    daemon_threads = True

    def __init__(self, page: str, reports: ReportCache, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.page = page.encode()
        self.reports = reports
        self.token = secrets.token_urlsafe(24)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def address(self, run_id: str = "") -> str:
        """Return the address that the user opens in a browser."""
        query = f"?{urlencode({'run': run_id})}" if run_id else ""
        return f"http://{HOST}:{self.server_port}/{self.token}/{query}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "sparklet", ""

    def do_GET(self) -> None:
        """Send the page, a report as JSON, or an error."""
        url = urlsplit(self.path)
        prefix = f"/{self.server.token}/"
        host, origin = self.headers.get("Host"), self.headers.get("Origin", "")
        if host not in self.server.hosts or (origin and urlsplit(origin).netloc not in self.server.hosts):
            return self._send_error(HTTPStatus.FORBIDDEN, "another host or origin")
        # In constant time, since else response times would reveal the token letter by letter. As bytes, since
        # `compare_digest` refuses texts that are not ASCII, as a path can be.
        if not hmac.compare_digest(url.path[: len(prefix)].encode(), prefix.encode()):
            return self._send_error(HTTPStatus.FORBIDDEN, "open the address that sparklet ui has printed")
        path = url.path[len(prefix) :]
        if not path:
            return self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        if path != "data":
            return self._send_error(HTTPStatus.NOT_FOUND, "there is only the page and its data")
        run_id = parse_qs(url.query).get("run", [""])[0]
        try:
            body = json.dumps(self.server.reports.get(run_id), default=str).encode()
        except SparkletError as error:
            return self._send_error(HTTPStatus.BAD_GATEWAY, str(error))
        return self._send(HTTPStatus.OK, body, "application/json")

    def _send_error(self, status: HTTPStatus, message: str) -> None:
        self._send(status, json.dumps({"error": message}).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        headers = {**SECURITY_HEADERS, "Content-Type": content_type, "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing, since an address can hold the token."""
