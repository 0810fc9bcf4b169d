"""The worker as a zip: it needs no installed package, is stored once, and has the same bytes for the same sources."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sparklet.engines import on_platform, worker_package
from tests.stand_ins.memory import FakeClock, MemoryObjectStore

ALONE = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/dependencies"]
import boto3, sparklet.engines.one_shard, sparklet.aws.dynamodb, sparklet.aws.object_store
assert boto3.__file__.startswith(sys.argv[1]) and sparklet.__file__.startswith(sys.argv[1])
for service in sys.argv[2:]:
    boto3.client(service, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
"""


def test_the_worker_package_needs_no_installed_package(tmp_path: Path) -> None:
    _, package = worker_package.files()
    zipfile.ZipFile(io.BytesIO(package)).extractall(tmp_path)

    alone = [sys.executable, "-I", "-S", "-c", ALONE, str(tmp_path), *worker_package.SERVICES]

    subprocess.run(alone, check=True)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / worker_package.PACKAGE
    path.write_bytes(worker_package.files()[1])
    return path


@pytest.mark.parametrize("has_boto3", [True, False])
def test_a_script_finds_the_platforms_packages(package: Path, tmp_path: Path, has_boto3: bool) -> None:
    """Our boto3 knows few services, so a script gets it only if the platform has none."""
    platform, unpacked = tmp_path / "platform", tmp_path / "unpacked"
    for name in ("boto3", "botocore") if has_boto3 else ("numpy",):
        (platform / name).mkdir(parents=True)
        (platform / name / "__init__.py").touch()

    own = on_platform.unpack(str(package), str(unpacked), [str(platform)])

    look = (
        "import boto3, botocore, urllib3, sparklet; print(*(m.__file__ for m in (boto3, botocore, urllib3, sparklet)))"
    )
    path = f"import sys; sys.path[:0] = {[str(unpacked), str(platform)]!r}; "
    found = subprocess.run([sys.executable, "-ISc", path + look], capture_output=True, text=True, check=True)
    whose = platform if has_boto3 else unpacked
    assert [Path(each).parents[1] for each in found.stdout.split()] == [whose, whose, unpacked, unpacked]
    worker = f"import sys; sys.path[:0] = {[str(unpacked), own, str(platform)]!r}; import boto3; boto3.client"
    subprocess.run([sys.executable, "-ISc", worker], check=True)  # the worker keeps its own


def test_executors_see_nothing_but_sparklet(package: Path) -> None:
    """Their Python has the zip itself on its path, in which botocore finds no service."""
    roots = {name.partition("/")[0] for name in zipfile.ZipFile(package).namelist()}

    assert roots == {"sparklet", on_platform.DEPENDENCIES}
    assert not [
        name for name in zipfile.ZipFile(package).namelist() if name == f"{on_platform.DEPENDENCIES}/__init__.py"
    ]


def test_the_worker_package_is_small_enough_to_fetch_each_time() -> None:
    assert len(worker_package.files()[1]) < 8 * 2**20


def test_the_worker_package_is_stored_once_below_its_digest() -> None:
    store = MemoryObjectStore(FakeClock())

    program, package = worker_package.store_worker(store, "runs")
    assert worker_package.store_worker(store, "runs") == (program, package)

    assert package.endswith(on_platform.PACKAGE)
    assert (store.get(program), store.get(package)) == worker_package.files()
    worker_package.files.cache_clear()
    assert worker_package.store_worker(store, "runs") == (program, package)


def test_an_old_python_gets_an_error_that_names_the_requirement(tmp_path: Path) -> None:
    """The program's syntax is old; a Python that says it is 3.9 stands for one that is."""
    program = tmp_path / worker_package.PROGRAM
    program.write_bytes(worker_package.files()[0])
    old = f"import sys, runpy; sys.version_info = (3, 9, 16); runpy.run_path({str(program)!r}, run_name='__main__')"

    said = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False)

    assert said.returncode == 1
    assert "3.9" in said.stderr
    assert "3.11" in said.stderr
