"""The stack files, and the requirements printed from them for pip; these tests need no network."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from docker.requirements_of import main, requirements

PROJECT = Path(__file__).parents[3]
FILES = sorted((PROJECT / "docker" / "stacks").glob("*.toml"))
STACKS: dict[str, dict[str, Any]] = {path.stem: tomllib.loads(path.read_text()) for path in FILES}


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> dict[str, Any]:
    return STACKS[request.param]


def _names(stack: dict[str, Any], *groups: str) -> set[str]:
    """The distributions that pip gets."""
    return {line.partition("==")[0] for line in requirements(stack, groups)}


def test_every_distribution_has_a_file_for_each_machine(stack: dict[str, Any]) -> None:
    for entry in stack["distribution"]:
        names = [file["name"] for file in entry["files"]]
        for machine in stack["machines"]:
            fitting = [name for name in names if name.endswith((f"{machine}.whl", "-any.whl", ".tar.gz"))]
            assert fitting, f"{entry['name']} has nothing for {machine}"


def test_every_file_is_pinned(stack: dict[str, Any]) -> None:
    pinned = [*stack["jar"], *(file for entry in stack["distribution"] for file in entry["files"])]

    assert all(re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]) and set(entry["sha256"]) != {"0"} for entry in pinned)
    assert all(entry["size_bytes"] > 1000 for entry in pinned)


def test_groups_that_are_named_exist(stack: dict[str, Any]) -> None:
    groups = {jar["group"] for jar in stack["jar"]}.union(*(entry["groups"] for entry in stack["distribution"]))

    assert groups.issuperset([*stack["always"], *stack["frameworks"]])


def test_scala_versions_of_a_stack_agree(stack: dict[str, Any]) -> None:
    of_scala = [jar["coordinate"] for jar in stack["jar"] if re.search(r"_2\.\d\d:", jar["coordinate"])]

    assert of_scala and all(f"_{stack['scala']}:" in coordinate for coordinate in of_scala)


def test_pip_gets_the_hashes_of_all_required_packages_only() -> None:
    stack = STACKS["spark-3.5"]

    lines = list(requirements(stack, []))

    names = [line.partition("==")[0] for line in lines]
    assert names[:3] == ["pyspark", "py4j", "boto3"]
    assert not {"delta-spark", "pydeequ"}.intersection(names)
    assert {"numpy", "pandas", "pyarrow"} <= set(names)  # pyspark.ml and pandas UDFs work in each image
    (client,) = [line for line in lines if line.startswith("awslambdaric==")]
    assert client.count("--hash=sha256:") == len(stack["machines"])
    assert lines == list(requirements(stack, ["avro"]))  # a group that has only jars


@pytest.mark.parametrize(("framework", "library"), [("delta", "delta-spark"), ("iceberg", "pyiceberg")])
def test_a_framework_brings_the_library_for_its_commits(stack: dict[str, Any], framework: str, library: str) -> None:
    assert library in _names(stack, framework) - _names(stack)


def test_an_unknown_group_is_named_with_the_existing_groups() -> None:
    with pytest.raises(ValueError, match=r"stack spark-3\.5 has no group paimon; it has avro, deequ, delta"):
        main([str(FILES[0]), "delta,paimon"])


def test_a_distribution_without_hash_is_refused() -> None:
    entry = {"groups": ["a"], "name": "x", "version": "1", "files": []}
    stack = {"name": "s", "always": ["a"], "jar": [], "distribution": [entry]}

    with pytest.raises(ValueError, match="x has no hash in stack s: make lock-stacks"):
        list(requirements(stack, []))


@pytest.mark.parametrize(("name", "lock"), [("spark-3.5", "dev.lock"), ("spark-4.1", "dev-spark-4.1.lock")])
def test_the_image_has_the_versions_that_the_tests_run_with(name: str, lock: str) -> None:
    lines = (PROJECT / "requirements" / lock).read_text().splitlines()
    ours = [line for line in lines if ">= '3.12'" not in line]
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", "\n".join(ours), re.MULTILINE))
    stack = STACKS[name]
    wanted = {"spark", "runtime", *stack["frameworks"]}
    installed = {e["name"]: e["version"] for e in stack["distribution"] if wanted.intersection(e["groups"])}

    differing = {name: version for name, version in installed.items() if locked.get(name, version) != version}

    assert differing == {}


def test_the_newer_of_two_sdks_of_aws_comes_first(stack: dict[str, Any]) -> None:
    """Iceberg's clients fail with the classes of the older SDK that S3A of Hadoop 3.4 brings."""
    bundle, modules = "org.apache.iceberg:iceberg-aws-bundle:", "software.amazon.awssdk:"
    order = [entry["coordinate"] for entry in stack["jar"] if entry["coordinate"].startswith((bundle, modules))]

    assert order[0].startswith(bundle)
