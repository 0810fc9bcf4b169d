"""The host's and the clients' own requests to the stand-in's process, in plain HTTP; AWS's are ``aws.clients``'."""

import urllib.error
import urllib.request

from sparklet.errors import LocalStackError

ACCOUNT = "000000000000"
REGION = "us-east-1"
TOKEN_HEADER = "X-Amz-Security-Token"  # noqa: S105 - its name
HEALTH_PATH = "/_ministack/health"  # its port is open from the start, so a first request waits until it answers
SAVE_PATH = "/_sparklet/save"  # write the whole state to disk, now
PROCESSING_PATH = "/_sparklet/processing"  # let mappings and schedules invoke functions; until then they wait
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy


def ask(endpoint_url: str, token: str, path: str, within_s: float = 60.0) -> None:
    """Send a request and wait for its answer; LocalStackError if the stand-in refuses it or does not answer."""
    request = urllib.request.Request(endpoint_url + path, headers={TOKEN_HEADER: token})  # noqa: S310
    try:
        _DIRECT.open(request, timeout=within_s).close()
    except urllib.error.HTTPError as error:
        raise LocalStackError(error.read().decode("utf-8", "replace")[:500]) from error
    except OSError as error:
        raise LocalStackError(f"the stand-in for AWS does not answer at {endpoint_url}: {error}") from error
