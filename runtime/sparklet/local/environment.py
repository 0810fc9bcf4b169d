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
LEAST_WAIT_S = 120.0  # a client waits at least this long for the emulator, which shares the machine with the workers
TOKEN_HEADER = "X-Amz-Security-Token"  # noqa: S105 - its name
HEALTH_PATH = "/_ministack/health"  # the port is open before the emulator is ready: a request waits for that
SAVE_PATH = "/_sparklet/save"  # write the whole state to disk, now
PROCESSING_PATH = "/_sparklet/processing"  # let mappings and schedules invoke functions
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
_PASSED_VARIABLES = ("HOME", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "PYTHONPATH", "TZ", "USER", "VIRTUAL_ENV")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def resource(path: str) -> Path:
    """The file that a checkout has at ``path``, such as ``sam/template.yaml``, and a wheel beside this module.

    LocalStackError if neither of the two exists.
    """
    module_file = Path(__file__).resolve()
    for candidate in (module_file.with_name(Path(path).name), module_file.parents[3] / path):
        if candidate.is_file():
            return candidate
    raise LocalStackError(f"neither this installation nor a checkout has {path}; reinstall Sparklet")


def host_env(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of the host: the user's variables that it and its processes need, with the image's locale."""
    # Without a UTF-8 locale Java cannot open files with names such as ä.csv.
    variables = {name: environ[name] for name in _PASSED_VARIABLES if name in environ} | {"LANG": "C.UTF-8"}
    home = str(Path(sparklet.__file__).resolve().parents[1])
    # A checkout is put on the path; folders of installed packages are on it already.
    if home not in (*site.getsitepackages(), site.getusersitepackages()):
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [home, variables.get("PYTHONPATH")]))
    return variables


def client_env(endpoint_url: str, token: str) -> dict[str, str]:
    """The variables of a client, by which every AWS library uses the emulator only."""
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


def function_env(state: StateDir, worker_env: Mapping[str, str]) -> dict[str, str]:
    """The variables that the process of every function has, in place of the template's values."""
    return {
        "SPARKLET_SCRATCH": str(state.scratch),
        "SPARKLET_METRICS_NAMESPACE": "",  # the local stack collects no metrics
        LOG_DIR_VARIABLE: str(state.log),
        **worker_env,
    }


def emulator_env(state: StateDir, endpoint_url: str, token: str, worker_env: Mapping[str, str]) -> dict[str, str]:
    """The emulator's environment, which its functions' processes inherit."""
    return {
        **host_env(),
        **client_env(endpoint_url, token),
        "AWS_CONFIG_FILE": str(state.no_config),
        "AWS_SHARED_CREDENTIALS_FILE": str(state.no_config),
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state.services),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(state.objects),
        "MINISTACK_REGION": REGION,
        "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0",  # otherwise it listens on a second port
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": f"unix://{os.devnull}.none",  # otherwise it removes another ministack's containers at its start
        "TMPDIR": str(state.tmp),
        **function_env(state, worker_env),
    }


@contextmanager
def applied(env: Mapping[str, str]) -> Iterator[None]:
    """Give this process the variables ``env``, and no other AWS settings or proxies, during the block."""
    earlier_variables = dict(os.environ)
    for name in earlier_variables:
        if name.startswith("AWS_") or name.lower() in _PROXY_VARIABLES:
            del os.environ[name]
    os.environ.update(env)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(earlier_variables)


def free_port() -> int:
    """A port of localhost that no process uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def send_request(endpoint_url: str, token: str, path: str, within_s: float = 60.0) -> None:
    """Send the emulator a request, and wait until it has answered. LocalStackError if it refuses or does not answer."""
    request = urllib.request.Request(endpoint_url + path, headers={TOKEN_HEADER: token})  # noqa: S310
    try:
        _DIRECT.open(request, timeout=within_s).close()
    # An HTTPError is an OSError, too, but has the emulator's reason in its body.
    except urllib.error.HTTPError as error:
        raise LocalStackError(error.read().decode("utf-8", "replace")[:500]) from error
    except OSError as error:
        raise LocalStackError(f"the emulator of AWS does not answer at {endpoint_url}: {error}") from error
