"""The image outside Lambda: a shard in a container of its own, Spark's commands, and the bill of materials."""

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from sparklet.model import Run, ShardState
from tests.container.account import EXAMPLES, Account
from tests.container.built_image import BuiltImage
from tests.container.cell import Cell
from tests.container.container import Conditions, podman
from tests.functional.job.conftest import FORMATS
from tests.waiting import deadline_s, eventually

LIMIT_S = deadline_s(80)
STOP_S = 30  # the time that Fargate gives a container after SIGTERM
NEVER_ENDS = """\
import time
from pyspark.sql import SparkSession
SparkSession.builder.getOrCreate()
print("the script sleeps", flush=True)
time.sleep(600)
"""

Start = Callable[..., "subprocess.CompletedProcess[str]"]


def _options() -> list[str]:
    """The limits of a Lambda function without its environment variables: read-only, no capability.

    ``/tmp`` is the image's own volume with the image's owner and mode, as in a Fargate task.
    """
    words = Conditions().options()
    left_out = {n for n, word in enumerate(words) if word.startswith(("AWS_LAMBDA_", "/tmp:"))}
    # A value is left out with the option before it.
    return [word for n, word in enumerate(words) if n not in left_out and n + 1 not in left_out]


@pytest.fixture
def start(image: BuiltImage, cell: Cell) -> Iterator[Start]:
    """A function that runs the image with arguments; its containers are removed after the test."""
    names: list[str] = []

    def run(
        *arguments: str, env: Mapping[str, str] = MappingProxyType({}), options: Sequence[str] = (), typed: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        names.append(f"sparklet-test-{uuid.uuid4().hex[:8]}")
        settings = [word for pair in env.items() for word in ("--env", "=".join(pair))]
        fixed = ["--name", names[-1], "--pull", "never", "--network", f"ns:{cell.path}", *_options(), *settings]
        return podman(image, "run", *options, *fixed, image.name, *arguments, limit_s=LIMIT_S, typed=typed)

    yield run
    for name in names:
        podman(image, "rm", "--force", "--volumes", "--time", "0", name)


def _run_of(account: Account, script: Path, text: str) -> Run:
    """Start a run of two shards, each with one file of that text."""
    folder = f"input/{uuid.uuid4().hex[:8]}"
    for name in ("a", "b"):
        account.put(f"{folder}/{name}.txt", text)
    return account.start(script, [account.uri(f"{folder}/")], {})


def test_a_container_does_a_shard_and_reports_to_the_same_ledger(account: Account, start: Start) -> None:
    run = _run_of(account, EXAMPLES / "wordcount.py", "one two two\n")

    done = start("shard", "--run", run.run_id, "--shard", "1", env=account.env)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert account.shard(run, 1).state is ShardState.SUCCEEDED
    assert account.shard(run, 1).rows == 2
    assert account.shard(run, 0).state is ShardState.PENDING


def test_a_stopped_container_releases_its_shard(
    account: Account, image: BuiltImage, start: Start, tmp_path: Path
) -> None:
    script = tmp_path / "sleeps.py"
    script.write_text(NEVER_ENDS)
    run = _run_of(account, script, "one\n")
    arguments = ("shard", "--run", run.run_id, "--shard", "0")
    name = start(*arguments, env=account.env, options=("--detach",)).stdout.strip()
    eventually(lambda: "the script sleeps" in podman(image, "logs", name).stdout, "the script has begun", 80)

    podman(image, "stop", "--time", str(STOP_S), name, limit_s=deadline_s(STOP_S))

    assert podman(image, "wait", name).stdout.strip() == "75"
    record = account.shard(run, 0)
    assert (record.state, record.error_class) == (ShardState.PENDING, "DeadlineExceededError")
    assert "SIGTERM" in record.error_message


def test_an_unknown_command_lists_the_known_ones(start: Start) -> None:
    done = start("bash")

    assert done.returncode == 64
    assert "'bash' is neither a handler" in done.stderr and "IMAGE spark-submit" in done.stderr


def test_a_pyspark_shell_has_the_table_formats(start: Start) -> None:
    typed = 'print("rows", spark.range(7).count(), spark.conf.get("spark.sql.extensions").count("Extension"))\n'

    done = start("pyspark", env={"PYSPARK_DRIVER_PYTHON_OPTS": "-i"}, options=("--interactive",), typed=typed)

    assert done.returncode == 0 and f"rows 7 {len(FORMATS)}" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


def test_spark_sql_prints_the_result_of_a_query(start: Start) -> None:
    done = start("spark-sql", "--conf", "spark.sql.shuffle.partitions=1", "-e", "SELECT 41 + 1 AS answer")

    assert done.returncode == 0 and done.stdout.split() == ["42"], done.stdout[-2000:] + done.stderr[-2000:]


def test_the_bill_of_materials_lists_every_jar_of_the_image(start: Start) -> None:
    code = (  # the jars of Java and py4j are no components of their own: their packages are listed as a whole
        "import json, pathlib; root = pathlib.Path('/opt'); "
        "jars = [str(jar) for part in ('spark', 'sparklet/jars') for jar in (root / part).rglob('*.jar')]; "
        "print(json.dumps([(root / 'sparklet/sbom.cdx.json').read_text(), jars]))"
    )

    bill, jars = json.loads(start("python", "-c", code).stdout)

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    components = json.loads(bill)["components"]
    listed = {f"/{component['bom-ref']}" for component in components if component["bom-ref"].endswith(".jar")}
    assert listed == set(jars)
    urls = {component.get("purl", "").partition("?")[0].partition("@")[0] for component in components}
    assert {"pkg:maven/io.delta/delta-storage", "pkg:pypi/boto3", "pkg:generic/openjdk", "pkg:deb/debian/libc6"} <= urls
