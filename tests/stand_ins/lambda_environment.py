"""A function's environment in Lambda: the runtime API, the container's credentials, and a bucket that notes requests.

The runtime API is the part that AWS documents: restore/next, which does not respond before the restore,
invocation/next and the responses. The bucket serves fixed objects and notes the access keys of requests.
"""

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from queue import Queue
from types import MappingProxyType
from typing import Any

from tests.stand_ins.http_server import serving
from tests.stand_ins.shifted_clock import ShiftedClock
from tests.waiting import deadline_s

FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:worker"
TOKEN = "the environment's own"
NOTHING = b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
ETAG = '"1-1"'  # because of the hyphen, no client compares it with an MD5
RUNTIME, CREDENTIALS = "/2018-06-01/runtime/", "/2021-04-23/credentials"


@dataclass
class LambdaEnvironment:
    """One execution environment."""

    objects: Mapping[str, bytes]  # by path, /bucket/key
    clock: ShiftedClock | None = None  # the function's clock
    key: str = "AT-INIT"  # the access key of the container's credentials
    asked: set[tuple[str, str]] = field(default_factory=set)  # client and access key of requests for objects
    snapshot: threading.Event = field(default_factory=threading.Event)  # set at the end of init
    restored: threading.Event = field(default_factory=threading.Event)
    events: "Queue[Any]" = field(default_factory=Queue)
    answers: "Queue[Any]" = field(default_factory=Queue)
    address: str = ""

    def variables(self) -> dict[str, str]:
        """The environment variables of a function with SnapStart, which has neither keys nor a log stream there."""
        return {
            "AWS_LAMBDA_RUNTIME_API": self.address,
            "AWS_LAMBDA_FUNCTION_NAME": "worker",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{self.address}{CREDENTIALS}",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": TOKEN,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            **(self.clock.variables() if self.clock else {}),
        }

    def now_s(self) -> float:
        """The function's time of day."""
        return time.time() + (self.clock.shift_s if self.clock else 0)

    def invoke(self, event: Any, timeout_s: float = deadline_s(40)) -> Any:
        """Let the function handle an event; return its response."""
        self.events.put(event)
        return self.answers.get(timeout=timeout_s)

    def credentials(self) -> dict[str, str]:
        """Credentials in the form of the container's endpoint."""
        end = datetime.fromtimestamp(self.now_s(), UTC) + timedelta(hours=6)
        keys = {"AccessKeyId": self.key, "SecretAccessKey": "secret", "Token": f"token of {self.key}"}
        return {**keys, "Expiration": end.strftime("%Y-%m-%dT%H:%M:%SZ")}


class Handler(BaseHTTPRequestHandler):
    """Serves the runtime API, the credentials and the bucket."""

    protocol_version = "HTTP/1.1"
    environment: LambdaEnvironment

    def do_GET(self) -> None:
        here = self.environment
        if self.path == f"{RUNTIME}restore/next":
            here.snapshot.set()
            here.restored.wait()
            self._answer(b"")
        elif self.path == f"{RUNTIME}invocation/next":
            event, deadline_ms = here.events.get(), int(here.now_s() * 1000) + 120_000
            values = {"Aws-Request-Id": "request-1", "Deadline-Ms": deadline_ms, "Invoked-Function-Arn": FUNCTION}
            headers = {f"Lambda-Runtime-{name}": str(value) for name, value in values.items()}
            # Without a content type AWS's runtime client ends with a segmentation fault.
            self._answer(json.dumps(event).encode(), 200, {**headers, "Content-Type": "application/json"})
        elif self.path == CREDENTIALS:
            if self.headers["Authorization"] == TOKEN:
                self._answer(json.dumps(here.credentials()).encode())
            else:
                self._answer(b"{}", 403)
        else:
            self._object()

    do_HEAD = do_GET  # noqa: N815 - the base class looks for this name

    def do_POST(self) -> None:
        self.environment.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(b"{}", 202)

    def _object(self) -> None:
        signed = re.search(r"Credential=([^/]+)/", self.headers["Authorization"])
        client = "boto3" if self.headers["User-Agent"].startswith("Boto3") else "S3A"
        self.environment.asked.add((client, signed[1] if signed else ""))
        content = self.environment.objects.get(self.path)
        if "list-type=" in self.path:
            self._answer(NOTHING)
        elif content is None:
            self._answer(b"", 404)
        elif byte_range := self.headers.get("Range", "").removeprefix("bytes="):
            first, last = map(int, byte_range.split("-"))
            part = content[first : last + 1]
            place = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            self._answer(part, 206, {"Content-Range": place, "ETag": ETAG})
        else:
            self._answer(content, 200, {"ETag": ETAG})

    def _answer(self, content: bytes, status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send_response(status)
        fixed = {"Content-Length": str(len(content)), "Last-Modified": "Sun, 22 Nov 2026 00:00:00 GMT"}
        for name, value in {**fixed, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


@contextmanager
def lambda_environment(objects: Mapping[str, bytes], clock: ShiftedClock | None = None) -> Iterator[LambdaEnvironment]:
    """Serve one environment until the end of the block."""
    environment = LambdaEnvironment(objects, clock)
    handler = type("Handler", (Handler,), {"environment": environment})
    with serving(handler) as address:
        environment.address = address.removeprefix("http://")
        yield environment
