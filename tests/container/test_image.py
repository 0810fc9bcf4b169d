"""The image's contents: two builds have the same bytes, the class archive is used, nothing superfluous is in it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.container import container
from tests.container.built_image import ARCH, HERE, ROOT, SLOWER, BuiltImage

BUDGET_BYTES = {"spark-3.5": 1_375_000_000, "spark-4.1": 1_400_000_000}
"""All formats of the stack with their class-data archive; docs/guide/image.md has the parts."""
ELF_MACHINES = {"x86_64": 62, "arm64": 183}
MIN_SHARED = 0.95  # of a Delta job's classes, without generated ones; janino's jar is signed and cannot be shared

# Runs a Delta job in a JVM that is started like a worker's; Java logs the source of each class.
DELTA_JOB = """
import os, subprocess, sys
from pathlib import Path
from typing import Any
from sparklet.settings import spark_settings
from sparklet.spark import spark_options as options

settings, tmp = spark_settings(), Path("/tmp")
jars = options.class_path(settings)
conf = options.spark_defaults(settings, tmp, jars)
log = f"-Xlog:class+load:file={tmp}/classes.log:none:filesize=0"
command = options.java_command(settings, jars, tmp, {}, conf, options=[log])
(tmp / "job.py").write_text('''
from pyspark.sql import SparkSession
spark = SparkSession.builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension").config(
    "spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog").getOrCreate()
spark.range(10).write.format("delta").save("/tmp/table")
assert spark.read.format("delta").load("/tmp/table").count() == 10
''')
env = {**os.environ, **options.process_env(settings, dict(os.environ))}
subprocess.run([*command, str(tmp / "job.py")], env=env, check=True)
lines = (tmp / "classes.log").read_text().splitlines()
seen = [line for line in lines if " source: " in line and "/0x" not in line and "Generated" not in line]
print("shared", sum("shared objects file" in line for line in seen), "of", len(seen))
"""

THREE_FORMATS = """
from sparklet.job import Job

lake = {"": "org.apache.iceberg.spark.SparkCatalog", ".type": "hadoop", ".warehouse": "file:///tmp/lake"}
spark = Job().spark("formats", {f"spark.sql.catalog.lake{name}": value for name, value in lake.items()})
rows = spark.range(100).selectExpr("id", "id % 7 AS part")
rows.limit(0).writeTo("lake.db.t").using("iceberg").create()
hudi = {"hoodie.table.name": "t", "hoodie.datasource.write.precombine.field": "part"}
for _ in range(2):
    rows.write.format("delta").mode("append").save("/tmp/delta")
    rows.writeTo("lake.db.t").append()
    rows.write.format("hudi").options(**hudi, **{"hoodie.datasource.write.recordkey.field": "id"}).mode("append").save(
        "file:///tmp/hudi"
    )
frames = spark.read.load("/tmp/delta", "delta"), spark.table("lake.db.t"), spark.read.load("file:///tmp/hudi", "hudi")
print("counted", [frame.count() for frame in frames])
"""

# Walks the container's file system as root and prints what the tests check.
SURVEY = r"""
import json, os, stat
found = {"setuid": [], "writable": [], "closed": [], "caches": [], "tools": [], "machines": [], "bytes": 0}
TOOLS = {"gcc", "cc", "g++", "c++", "clang", "make", "ld", "as", "javac", "pip", "pip3", "jlink", "git", "curl", "wget"}
CACHES = ("/var/cache/apt/", "/var/lib/apt/lists/", "/var/cache/dnf/", "/mnt/", "/root/.cache/")
for folder, _, names in os.walk("/"):
    if folder.split("/")[1] in ("proc", "sys", "dev", "tmp"):
        continue
    for name in names:
        path = os.path.join(folder, name)
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            continue
        if mode & 0o6000:
            found["setuid"].append(path)
        if mode & 0o002:
            found["writable"].append(path)
        if path.startswith("/opt/") and (not mode & 0o004 or mode & 0o100 and not mode & 0o001):
            found["closed"].append(path)
        if path.startswith(CACHES):
            found["caches"].append(path)
        if name in TOOLS and mode & 0o111:
            found["tools"].append(path)
        with open(path, "rb") as file:
            head = file.read(20)
        if head[:4] == b"\x7fELF" and head[18] not in found["machines"]:
            found["machines"].append(head[18])
found["passwd"] = [line.strip() for line in open("/etc/passwd") if line.startswith("sparklet:")]
found["authorities"] = open("/etc/ssl/certs/ca-certificates.crt").read().count("BEGIN CERTIFICATE")
print(json.dumps(found))
"""


def podman(image: BuiltImage, *words: str, timeout_s: float = 240) -> str:
    """Call podman and return its output; if it fails, the assertion shows its error output."""
    answer = container.podman(image, *words, limit_s=timeout_s * SLOWER)
    assert answer.returncode == 0, f"podman {words[0]}: {answer.stderr[-3000:]}{answer.stdout[-2000:]}"
    return answer.stdout


def python(image: BuiltImage, name: str, code: str, *options: str) -> str:
    """Run a piece of Python in a new container; return its output."""
    return podman(image, "run", "--rm", "--network", "none", *options, "--entrypoint", "python3", name, "-c", code)


@pytest.fixture(scope="module")
def survey(image: BuiltImage) -> Any:
    return json.loads(python(image, image.name, SURVEY, "--user", "0", "--cap-drop=ALL"))


@pytest.fixture(scope="module")
def described(image: BuiltImage) -> Any:
    [document] = json.loads(podman(image, "image", "inspect", image.name))
    return document["Config"]


@pytest.fixture(scope="module", params=["built", pytest.param("imported", marks=pytest.mark.campaign)])
def delivered(
    request: pytest.FixtureRequest, image: BuiltImage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of the image as it was built, or as another machine gets it: saved to an archive and loaded again."""
    if request.param == "built":
        yield image.name
        return
    name = "localhost/sparklet-reimported:test"
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    podman(image, "save", "--quiet", "--format", "oci-archive", "--output", str(archive), image.name)
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci-archive:{archive}", f"containers-storage:{name}"],
        env=image.environ,
        check=True,
        timeout=240,
    )
    archive.unlink()
    yield name
    podman(image, "rmi", "--force", name)


def test_the_class_archive_is_used_as_built_and_imported(
    image: BuiltImage, delivered: str, observed: list[str]
) -> None:
    output = python(image, delivered, DELTA_JOB, "--read-only", "--tmpfs", "/tmp:rw,size=512m,mode=1777")

    shared, loaded = map(int, re.findall(r"shared (\d+) of (\d+)", output)[-1])
    observed.append(f"classes of a Delta job from the archive: {shared:,} of {loaded:,}")
    assert shared / loaded > MIN_SHARED


@pytest.mark.skipif(ARCH == HERE, reason="tests of examples try it by the handler, which qemu-user cannot run")
def test_another_processors_image_writes_three_formats(image: BuiltImage, tmp_path: Path) -> None:
    """In Hudi the second append replaces the rows of the first; in the other formats it adds rows."""
    (tmp_path / "formats.py").write_text(THREE_FORMATS)
    tmp_path.chmod(0o755)
    options = ["--network", "none", "--read-only", "--tmpfs", "/tmp:rw,size=1g,mode=1777"]
    options += ["--entrypoint", "spark-submit"]
    command = ["--driver-class-path", "/opt/sparklet/jars/*", "/mnt/formats.py"]

    output = podman(image, "run", "--rm", *options, image.name, *command)

    assert "counted [200, 200, 100]" in output


@pytest.mark.campaign  # a build of four minutes, which uses only the downloads and the base image of an earlier one
@pytest.mark.timeout(900)
def test_two_builds_give_the_same_digest(image: BuiltImage, tmp_path: Path, observed: list[str]) -> None:
    document, report = image.document, tmp_path / "second.json"
    command = [sys.executable, str(ROOT / "docker" / "build.py"), "--no-cache", "--output", str(report)]
    command += ["--stack", document["stack"], "--frameworks", ",".join(document["frameworks"])]
    command += ["--extras", ",".join(document["extras"]), "--tag", "localhost/sparklet-again:test"]

    answer = subprocess.run(command, capture_output=True, text=True, timeout=850, check=False)

    assert answer.returncode == 0, answer.stderr[-3000:]
    podman(image, "rmi", "--force", "localhost/sparklet-again:test")
    again = json.loads(report.read_text())
    observed.append(f"built without the layers of the first: {again['seconds']['build']:.0f} s, {again['digest']}")
    first, second = ([each["digest"], *each["diff_ids"]] for each in (document, again))
    layers = [number for number, (one, other) in enumerate(zip(first, second, strict=True)) if one != other][1:]
    assert first == second, f"layers that differ, counted from 1: {layers}"


def test_the_image_has_its_own_user_in_passwd(described: Any, survey: Any) -> None:
    assert described["User"] == "993:990"
    assert survey["passwd"] == ["sparklet:x:993:990:Sparklet:/tmp:/bin/sh"]
    assert "HOME=/tmp" in described["Env"]


def test_the_images_files_are_readable_and_without_tools(survey: Any) -> None:
    assert (survey["setuid"], survey["tools"], survey["caches"], survey["writable"]) == ([], [], [], [])
    assert survey["closed"] == []  # Lambda's user must read every file, even if the builder's checkout is private
    assert survey["machines"] == [ELF_MACHINES[ARCH]]
    assert 100 < survey["authorities"] < 200  # only the public authorities


def test_no_secret_and_no_proxy_of_the_build_is_kept(image: BuiltImage, described: Any) -> None:
    kept = json.dumps(described) + podman(image, "history", "--no-trunc", image.name)

    assert not re.search(r"(?i)secret|token|passw|akia|proxy|mirror=.|://", kept), kept


def test_the_labels_describe_the_image(image: BuiltImage, described: Any) -> None:
    labels = described["Labels"]

    assert labels["org.opencontainers.image.title"] == "Sparklet"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["io.sparklet.stack"] == image.document["stack"]
    assert labels["io.sparklet.frameworks"] == ",".join(image.document["frameworks"])


def test_the_image_keeps_to_its_size(image: BuiltImage, observed: list[str]) -> None:
    size_bytes = image.document["size_bytes"]
    observed.append(f"size: {size_bytes / 1e6:.0f} MB in {len(image.document['layers'])} layers")
    assert size_bytes < BUDGET_BYTES[image.document["stack"]]
