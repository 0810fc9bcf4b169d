"""Primes a worker that Lambda freezes before its first event: the JVM runs small tasks, so that later ones are fast.

A worker on demand does not import this module; a worker before a snapshot or with provisioned concurrency does. Each
environment that is restored from a snapshot renews the state that all of them would share (docs/decisions/0044).
"""

import gc
import importlib
import json
import os
import random
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from sparklet.log import Log
from sparklet.spark.runner import Deadline, ScriptCall, task_folder
from sparklet.spark.script import Script
from sparklet.spark.spark_options import INPUTS
from sparklet.spark.warm_runner import WarmRunner

SNAP_START = "snap-start"
PARTS = ("files", "delta", "iceberg", "hudi", "s3", "files", "hudi", "files")  # chosen by measurement: decision 0044
LIMIT_S = 100.0  # init before a snapshot has 130 s, or the function's timeout if that is longer
GRACE_S = 5.0
ENDPOINT_LIMIT_S = 2.0
SCRIPT = Path(__file__).parents[1] / "spark" / "priming_script.py"


def prime(
    runner: WarmRunner,
    scratch: Path,
    parts: Sequence[str] = PARTS,
    limit_s: float = LIMIT_S,
    clients: Callable[[], None] = lambda: None,
) -> bool:
    """Call ``clients``, which prepares AWS's clients, while the JVM boots; then run the parts as tasks.

    Return whether the JVM is primed and was not replaced. Never raises: a worker that could not be primed works like
    one on demand.
    """
    log, deadline, started_s, jvms = Log(), Deadline.within(limit_s, GRACE_S), time.monotonic(), runner.jvm_starts
    steps: list[tuple[str, Callable[[], None]]] = [("clients", clients)]
    steps += ((part, partial(_run_part, runner, scratch, part, deadline)) for part in parts)
    done_names = []
    for name, step in steps:
        # A part that is stopped at its deadline would lose the JVM, so none starts in the second half of the time.
        if time.monotonic() - started_s > limit_s / 2:
            break
        try:
            step()
            done_names.append(name)
        except Exception as error:  # noqa: BLE001 - init must not fail, whatever the error is
            log.warning("a part of priming failed", part=name, error=f"{type(error).__name__}: {error}")
    # Garbage is collected first: what is frozen stays for the environment's life.
    gc.collect()
    gc.freeze()  # from now on the collector skips the objects that init has made
    # A JVM that has been replaced meanwhile is not primed.
    is_primed = runner.jvm_starts == jvms and not set(parts).isdisjoint(done_names)
    log.info("primed", parts=done_names, jvm_kept=is_primed, duration_s=round(time.monotonic() - started_s, 3))
    return is_primed


def _run_part(runner: WarmRunner, scratch: Path, part: str, deadline: Deadline) -> None:
    with task_folder(scratch, f"priming-{part}") as part_folder:
        folder = part_folder / "work"
        folder.mkdir()
        (part_folder / INPUTS).touch()
        env = {"SPARKLET_OUTCOME_FILE": str(folder / "outcome.json")}
        call = ScriptCall(SCRIPT, Script(SCRIPT.read_bytes()), (part,), folder, deadline, env, is_priming=True)
        result = runner.run(call, lambda stream, line: None)
    if result.exit_code:
        raise RuntimeError(result.stderr_tail)


def renew_after_restore(runner: WarmRunner, env: Mapping[str, str] = os.environ) -> None:
    """If a snapshot follows, register ``renew`` for each environment that Lambda restores from it."""
    if env.get("AWS_LAMBDA_INITIALIZATION_TYPE") == SNAP_START:
        hooks = importlib.import_module("snapshot_restore_py")  # comes with awslambdaric
        hooks.register_after_restore(renew, runner)


def renew(runner: WarmRunner) -> None:
    """Give this environment random states of its own; the JVM and the scripts get their own at the next task."""
    # AWS renews the kernel's generator after a restore, but the states of these two are in the copied memory.
    random.seed()
    ssl.RAND_add(os.urandom(32), 32.0)
    runner.renew(container_keys)


def container_keys(env: Mapping[str, str] = os.environ) -> Mapping[str, str]:
    """AWS's usual variables with the container's current credentials; empty if it has no endpoint or need not use it.

    Some scripts read these variables. A restored environment has only the endpoint that returns the credentials.
    """
    uri = env.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if not uri or "AWS_ACCESS_KEY_ID" in env:
        return {}
    token = {"Authorization": env.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")}
    request = urllib.request.Request(uri, headers=token)  # noqa: S310 - Lambda's own address
    try:
        # The endpoint is on this machine, which a proxy that the variables name does not reach.
        without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with without_proxy.open(request, timeout=ENDPOINT_LIMIT_S) as response:
            keys = json.load(response)
        names = {"ACCESS_KEY_ID": "AccessKeyId", "SECRET_ACCESS_KEY": "SecretAccessKey", "SESSION_TOKEN": "Token"}
        return {f"AWS_{name}": str(keys[key]) for name, key in names.items()}
    # Most scripts do not need these variables: boto3 and S3A fetch the credentials themselves.
    except (OSError, ValueError, KeyError) as error:
        Log().warning("the script gets no keys: the container's credentials could not be fetched", error=str(error))
        return {}
