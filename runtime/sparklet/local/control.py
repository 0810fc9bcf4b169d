"""The host's and the clients' own requests to the stand-in's process, in plain HTTP; AWS's are ``aws.clients``'."""

import urllib.error
import urllib.request
from dataclasses import dataclass

from sparklet.errors import LocalStackError

ACCOUNT = "000000000000"
REGION = "us-east-1"
TOKEN_HEADER = "X-Amz-Security-Token"  # noqa: S105 - its name
SAVE_PATH = "/_sparklet/save"
PROCESSING_PATH = "/_sparklet/processing"
HEALTH_PATH = "/_ministack/health"
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy


@dataclass(frozen=True, slots=True)
class Control:
    """A stand-in that listens at ``endpoint_url`` and requires the token."""

    endpoint_url: str
    token: str

    def await_ready(self, within_s: float) -> None:
        """Wait until it answers; its port is open from the start, so the first request waits."""
        self._send("GET", HEALTH_PATH, within_s)

    def save(self) -> None:
        """Write its whole state to disk, now."""
        self._send("POST", SAVE_PATH, 600)

    def start_processing(self) -> None:
        """Let mappings and schedules invoke functions; until then they wait."""
        self._send("POST", PROCESSING_PATH, 60)

    def _send(self, method: str, path: str, within_s: float) -> None:
        headers = {TOKEN_HEADER: self.token}
        request = urllib.request.Request(self.endpoint_url + path, headers=headers, method=method)  # noqa: S310
        try:
            _DIRECT.open(request, timeout=within_s).close()
        except urllib.error.HTTPError as error:
            raise LocalStackError(error.read().decode("utf-8", "replace")[:500]) from error
        except OSError as error:
            raise LocalStackError(f"the stand-in for AWS does not answer at {self.endpoint_url}: {error}") from error
