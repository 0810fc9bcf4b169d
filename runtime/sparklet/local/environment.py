"""This installation's files, the environments of emulator, workers and clients, and requests to the emulator.

The local mode ignores credentials, profiles, endpoints and proxies of the user's shell.
"""

import os
import site
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import sparklet
from sparklet.errors import LocalStackError
from sparklet.local.state import ACCOUNT, StateDir
from sparklet.local.worker_process import LOG_DIR_VARIABLE

REGION = "us-east-1"
LEAST_WAIT_S = 120.0  # for an answer of the stand-in, which has the machine to share with the workers
TOKEN_HEADER = "X-Amz-Security-Token"  # noqa: S105 - its name
HEALTH_PATH = "/_ministack/health"  # its port is open from the start: a first request waits for the answer
SAVE_PATH = "/_sparklet/save"  # write the whole state to disk, now
PROCESSING_PATH = "/_sparklet/processing"  # let mappings and schedules invoke functions
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
_PASSED = ("HOME", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "PYTHONPATH", "TZ", "USER", "VIRTUAL_ENV")
_FOREIGN = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def resource(path: str) -> Path:
    """The file at ``path`` of a checkout, such as ``sam/template.yaml``; a wheel has it beside this module.

    LocalStackError if neither this installation nor a checkout has it.
    """
    module_file = Path(__file__).resolve()
    for candidate in (module_file.with_name(Path(path).name), module_file.parents[3] / path):
        if candidate.is_file():
            return candidate
    raise LocalStackError(f"neither this installation nor a checkout has {path}; reinstall Sparklet")


def of_host(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of the user's environment that the host, the emulator and the workers get; the locale is the image's."""
    passed = {name: environ[name] for name in _PASSED if name in environ} | {"LANG": "C.UTF-8"}  # else Java opens no ä
    home = str(Path(sparklet.__file__).resolve().parents[1])
    if home not in (*site.getsitepackages(), site.getusersitepackages()):  # a checkout: no other packages beside it
        passed["PYTHONPATH"] = os.pathsep.join(filter(None, [home, passed.get("PYTHONPATH")]))
    return passed


def of_client(endpoint_url: str, token: str) -> dict[str, str]:
    """Variables that direct every AWS library to the emulator only."""
    return {
        "AWS_ENDPOINT_URL": endpoint_url,
        "AWS_ACCESS_KEY_ID": ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_SESSION_TOKEN": token,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def of_workers(state: StateDir, worker_env: Mapping[str, str]) -> dict[str, str]:
    """Variables of every function's process, in place of the template's values."""
    return {
        "SPARKLET_SCRATCH": str(state.scratch),
        "SPARKLET_METRICS_NAMESPACE": "",  # no service collects metrics here
        LOG_DIR_VARIABLE: str(state.log),
        **worker_env,
    }


def of_emulator(state: StateDir, endpoint_url: str, token: str, worker_env: Mapping[str, str]) -> dict[str, str]:
    """The emulator's environment, which its functions' processes inherit."""
    return {
        **of_host(),
        **of_client(endpoint_url, token),
        "AWS_CONFIG_FILE": str(state.no_config),
        "AWS_SHARED_CREDENTIALS_FILE": str(state.no_config),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state.services),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(state.objects),
        "MINISTACK_REGION": REGION,
        "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0",  # or it listens on a second port
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": f"unix://{os.devnull}.none",  # or it removes containers of another ministack at its start
        "TMPDIR": str(state.tmp),
        **of_workers(state, worker_env),
    }


@contextmanager
def applied(env: Mapping[str, str]) -> Iterator[None]:
    """During the block, this process has ``env``, and no other AWS settings or proxies."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_") or name.lower() in _FOREIGN:
            del os.environ[name]
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def free_port() -> int:
    """A port of localhost that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def ask(endpoint_url: str, token: str, path: str, within_s: float = 60.0) -> None:
    """Send a request and wait for its answer; LocalStackError if the emulator refuses it or does not answer."""
    request = urllib.request.Request(endpoint_url + path, headers={TOKEN_HEADER: token})  # noqa: S310
    try:
        _DIRECT.open(request, timeout=within_s).close()
    # It is an OSError, too, and the only one that has the emulator's reason.
    except urllib.error.HTTPError as error:
        raise LocalStackError(error.read().decode("utf-8", "replace")[:500]) from error
    except OSError as error:
        raise LocalStackError(f"the emulator of AWS does not answer at {endpoint_url}: {error}") from error
