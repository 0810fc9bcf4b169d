"""The host's requests to the stand-in, in plain HTTP, so that its process loads no AWS library.

Requests carry the token that the stand-in's guard requires; signatures are not verified.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

from sparklet.errors import LocalStackError

ACCOUNT = "000000000000"
REGION = "us-east-1"
TOKEN_HEADER = "X-Amz-Security-Token"  # noqa: S105 - its name
SAVE_PATH = "/_sparklet/save"
PROCESSING_PATH = "/_sparklet/processing"
HEALTH_PATH = "/_ministack/health"


class RefusedError(LocalStackError):
    """The stand-in refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Control:
    """A stand-in that listens at ``endpoint_url``."""

    endpoint_url: str
    token: str

    def await_ready(self, within_s: float) -> None:
        """Wait until it answers; its port is open from the start, so the first request waits."""
        self._send("GET", HEALTH_PATH, timeout_s=within_s)

    def save(self) -> None:
        """Write its whole state to disk, now."""
        self._send("POST", SAVE_PATH, timeout_s=600)

    def start_processing(self) -> None:
        """Let mappings and schedules invoke functions; until then they wait."""
        self._send("POST", PROCESSING_PATH)

    def formation(self, action: str, parameters: Mapping[str, str]) -> ElementTree.Element:
        """Call CloudFormation; RefusedError with its message if it refuses."""
        form = {"Action": action, "Version": "2010-05-15", **parameters}
        body = urllib.parse.urlencode(form).encode()
        answer = self._send("POST", "/", body, "cloudformation", "application/x-www-form-urlencoded")
        return _without_namespaces(ElementTree.fromstring(answer))  # noqa: S314 - of our own child

    def states(self, action: str, parameters: Mapping[str, Any]) -> Any:
        """Call Step Functions; RefusedError with its message if it refuses."""
        body = json.dumps(parameters).encode()
        target = {"X-Amz-Target": f"AWSStepFunctions.{action}"}
        return json.loads(self._send("POST", "/", body, "states", "application/x-amz-json-1.0", headers=target))

    def put_object(self, bucket: str, key: str, body: bytes) -> str:
        """Write an object, its bucket made if need be; its address."""
        self._send("PUT", f"/{bucket}", content_type="application/xml")
        self._send("PUT", f"/{bucket}/{key}", body)
        return f"{self.endpoint_url}/{bucket}/{key}"

    def reserve_concurrency(self, function: str, reserved: int | None) -> None:
        """Let a function run at most ``reserved`` times at once; None: as often as it likes."""
        path = f"/2017-10-31/functions/{function}/concurrency"
        if reserved is None:
            self._send("DELETE", path, b"", "lambda")
        else:
            body = json.dumps({"ReservedConcurrentExecutions": reserved}).encode()
            self._send("PUT", path, body, "lambda", "application/json")

    def _send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        service: str = "s3",
        content_type: str = "application/octet-stream",
        timeout_s: float = 60,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        scope = f"{ACCOUNT}/20260101/{REGION}/{service}/aws4_request"
        headers = {
            **headers,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
            TOKEN_HEADER: self.token,
            "Content-Type": content_type,
        }
        request = urllib.request.Request(self.endpoint_url + path, body or None, headers, method=method)  # noqa: S310
        try:
            with _DIRECT.open(request, timeout=timeout_s) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise RefusedError(error.code, _message(error.read())) from error
        except OSError as error:
            raise LocalStackError(f"the stand-in for AWS does not answer at {self.endpoint_url}: {error}") from error


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy


def texts(document: ElementTree.Element, *names: str) -> list[dict[str, Any]]:
    """The texts named, of each ``member`` in a list anywhere in the document that has the first of them."""
    found = []
    for member in document.iter("member"):
        if member.find(names[0]) is not None:
            found.append({name: member.findtext(name, "") for name in names})
    return found


def _without_namespaces(document: ElementTree.Element) -> ElementTree.Element:
    for element in document.iter():
        element.tag = element.tag.rpartition("}")[2]
    return document


def _message(body: bytes) -> str:
    """The message of an error answer, in XML or JSON."""
    text = body.decode("utf-8", "replace")
    try:
        found = _without_namespaces(ElementTree.fromstring(text)).findtext(".//Message")  # noqa: S314
    except ElementTree.ParseError:
        found = None
    return found or text[:500]
