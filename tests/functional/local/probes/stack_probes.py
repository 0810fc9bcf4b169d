"""Handlers that write what they get into files, deployed in place of Sparklet's own to observe the stand-in."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.waiting import eventually

SHOWN = Path(os.environ["PROBE_DIR"])


def worker(event: dict[str, Any], context: Any) -> Any:
    """Do the action that each message names in its body."""
    failures = []
    for record in event["Records"]:
        task = json.loads(record["body"])
        show("received", task["name"])
        show(f"receives of {task['name']}", record["attributes"]["ApproximateReceiveCount"])
        if not globals()[f"do_{task['do']}"](task, context):
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}


def dlq(event: dict[str, Any], context: Any) -> Any:
    for record in event["Records"]:
        show("dead", json.loads(record["body"])["name"])
    return {"batchItemFailures": []}


def checker(event: dict[str, Any], context: Any) -> Any:
    show("checked", str(time.time_ns()), json.dumps(event))
    return {}


def do_well(task: dict[str, Any], context: Any) -> bool:
    show("done", task["name"], str(os.getpid()))
    return True


def do_fail(task: dict[str, Any], context: Any) -> bool:
    return False


def do_environment(task: dict[str, Any], context: Any) -> bool:
    show("environment", task["name"], json.dumps(dict(os.environ)))
    return True


def do_overlap(task: dict[str, Any], context: Any) -> bool:
    """Show how many of these actions run at once; each waits until the test lets it go on."""
    show("at work", str(os.getpid()))
    at_once = len(list((SHOWN / "at work").glob("[!.]*")))
    eventually((SHOWN / "go on").exists)
    (SHOWN / "at work" / str(os.getpid())).unlink()
    show("at once", task["name"], str(at_once))
    return True


def do_hang(task: dict[str, Any], context: Any) -> bool:
    """Hang, with a child that ignores SIGTERM and one in a session of its own, as a JVM and a script's daemon would."""
    ignoring = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    children = [subprocess.Popen([sys.executable, "-c", ignoring], start_new_session=new) for new in (False, True)]
    show("pids", task["name"], json.dumps([os.getpid(), *(child.pid for child in children)]))
    try:
        time.sleep(600)  # never ends
    except Exception as error:
        show("stopped", task["name"], type(error).__name__)
        raise
    return True


def show(kind: str, name: str, text: str = "") -> None:
    """Write a file for the test; it appears with its whole text."""
    folder = SHOWN / kind
    folder.mkdir(exist_ok=True)
    draft = folder / f".{name}.{os.getpid()}"
    draft.write_text(text)
    draft.rename(folder / name)
