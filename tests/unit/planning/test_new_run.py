"""A run is created in the ledger once, after its input and scripts were checked."""

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparklet.errors import PlanError, RunExistsError, RunNotFoundError, SettingsError
from sparklet.model import MODULES, RUN_ID, Dispatch, RunOptions, RunState, ScriptRef
from sparklet.planning.new_run import new_run, repaired_script, run_id_of
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest
from tests.world import BUCKET, SCRIPT, SOURCE, World

CHECK, NEXT, OTHER = (f"s3://data/jobs/{name}.py" for name in ("check", "next", "other"))


@pytest.fixture
def world(world: World) -> World:
    """A world with three objects to plan, and three more scripts."""
    world.put(3)
    for script in (CHECK, NEXT, OTHER):
        world.store.put(script, f"print({script!r})\n".encode())
    return world


def test_a_run_has_the_values_of_its_request(world: World) -> None:
    options = RunOptions(max_objects=7)

    run = new_run(world.deployment, world.request(args=("--x",), params={"year": 2013}, options=options))

    assert run == world.ledger.runs.get("run-1")
    assert (run.state, run.shard_count, run.generation) == (RunState.PLANNING, None, 0)
    assert (run.inputs, run.output_uri) == ((SOURCE,), "s3://data/out/")
    assert (run.args, run.params, run.options) == (("--x",), {"year": 2013}, options)
    assert run.created_s == world.clock.now_s()


def test_the_script_is_copied_by_digest_under_its_own_name(world: World, tmp_path: Path) -> None:
    wheel = tmp_path / "lib-1.0.whl"
    wheel.write_bytes(b"PK")

    run = new_run(world.deployment, world.request(py_files=(str(wheel),)))

    (script,) = run.scripts
    digest = hashlib.sha256(b"print('daily')\n").hexdigest()
    assert (script.uri, script.sha256) == (f"s3://{BUCKET}/runs/run-1/script/{digest}/daily.py", digest)
    assert script.source_uri == SCRIPT
    assert world.store.get(script.uri) == b"print('daily')\n"
    (copy,) = script.py_files
    assert copy.endswith("/lib-1.0.whl") and world.store.get(copy) == b"PK"


def test_a_local_script_is_copied_as_well(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my job.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)

    (script,) = new_run(world.deployment, world.request(script="my job.py")).scripts

    assert world.store.get(script.uri) == b"x = 1\n"
    assert script.uri.endswith("/my job.py")
    assert script.source_uri == str(tmp_path / "my job.py")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ("s3://data/none/",)}, "is empty"),
        ({"options": RunOptions(include=("*.json",))}, r"nothing to plan; left out: 3 not matched by any --include"),
        ({"script": "s3://data/jobs/typo.py"}, r"the script s3://data/jobs/typo.py is not there"),
        ({"script": "nowhere.py"}, "the script nowhere.py is not there"),
        ({"script": "s3://data/jobs/daily.jar"}, "must be a .py file"),
        ({"py_files": ("lib.tar.gz",)}, r"lib.tar.gz must be a .py or .zip"),
        ({"py_files": ("s3://data/lib.zip",)}, r"the py-file s3://data/lib.zip is not there"),
        ({"spark_files": ("s3://data/a.json",)}, r"the file s3://data/a.json is not there"),
        ({"spark_files": ("s3://data/lib.zip",)}, r"lib.zip cannot come with the script: give it by --py-files"),
        ({"spark_files": ("a/x.csv", "b/x.csv")}, r"b/x.csv cannot come with the script: another file has the"),
        ({"conf": {"my.own": "1"}}, r"--conf my.own: the names of Spark's options begin with spark\."),
        ({"output_uri": "s3://data/in/out/"}, "lies inside the input s3://data/in/"),
        ({"inputs": ("s3://data/",)}, "the output s3://data/out/ lies inside the input"),
        ({"output_uri": "./out"}, "must look like s3://bucket/folder/"),
        ({"output_uri": "s3:///out"}, "must look like s3://bucket/folder/"),
        ({"inputs": (SOURCE, SCRIPT), "args": ("--from", "{input}")}, r"\{input\} .* stands for the run's input"),
        ({"run_id": "Run 1"}, "must be 1 to 63 of a-z"),
        ({"run_id": "a" * 64}, "must be 1 to 63"),
    ],
)
def test_a_request_that_cannot_be_planned_creates_nothing(world: World, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        new_run(world.deployment, world.request(**changes))
    assert world.keys(f"s3://{BUCKET}/") == []
    assert list(world.ledger.runs.list()) == []


def test_sparklets_own_folder_is_refused_as_input(world: World) -> None:
    world.put(1, folder=f"s3://{BUCKET}/in/")
    with pytest.raises(PlanError, match="Sparklet's own folder s3://sparklet/runs/ lies inside the input"):
        new_run(world.deployment, world.request(inputs=(f"s3://{BUCKET}/",)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"import os\n\ndef f(:\n    pass\n", r", line 3: invalid syntax: def f\(:"),
        (b"x = 1\0", ""),
        (b"# coding: nonsense\nx = 1\n", ""),
    ],
)
@pytest.mark.parametrize("kind", ["script", "check", "next"])
def test_a_script_is_compiled_before_any_write(world: World, kind: str, body: bytes, message: str) -> None:
    world.store.put(OTHER, body)

    with pytest.raises(PlanError, match=f"other.py cannot be compiled{message}"):
        new_run(world.deployment, world.request(**{kind: OTHER}))

    assert world.keys(world.deployment.runs_uri) == []


def test_a_script_with_a_syntax_warning_is_accepted(world: World) -> None:
    world.store.put(SCRIPT, b"x = '\\d'\n")
    assert new_run(world.deployment, world.request()).state is RunState.PLANNING


def test_the_same_request_again_is_the_same_run(world: World) -> None:
    first = new_run(world.deployment, world.request(inputs=("s3://data/in",)))
    world.clock.advance(100)
    world.store.put("s3://data/jobs/moved.py", world.store.get(SCRIPT))

    assert new_run(world.deployment, world.request(inputs=("s3://data/in/",))) == first
    assert new_run(world.deployment, world.request(output_uri="s3://data/out")) == first
    plan(world.deployment, "run-1")
    assert new_run(world.deployment, world.request()).state is RunState.RUNNING


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"inputs": ("s3://data/other/",)}, "inputs"),
        ({"output_uri": "s3://data/out2/"}, "output"),
        ({"args": ("x",)}, "arguments"),
        ({"params": {"x": 1}}, "parameters"),
        ({"options": RunOptions(max_objects=3)}, "options"),
        ({"script": OTHER}, "script"),
        ({"args": ("x",), "params": {"x": 1}}, "arguments and parameters"),
        ({"dispatch": Dispatch.MAP}, "dispatch"),
        ({"check": NEXT}, "check"),
        ({"check": ""}, "check"),
        ({"next": CHECK}, "next"),
        ({"next_output": "s3://data/other/"}, "next"),
        ({"next": "", "next_output": ""}, "next"),
    ],
)
def test_another_request_under_a_used_id_is_refused(world: World, changes: dict[str, Any], differing: str) -> None:
    asked = world.request(check=CHECK, next=NEXT, next_output="s3://data/next/")
    new_run(world.deployment, asked)
    stored = world.keys(world.deployment.run_uri("run-1", "script/"))

    with pytest.raises(RunExistsError, match=f"run-1 exists with other {differing}; choose another run id"):
        new_run(world.deployment, replace(asked, **changes))

    assert world.keys(world.deployment.run_uri("run-1", "script/")) == stored


def test_check_and_next_script_are_copied_like_the_main_script(world: World) -> None:
    asked = world.request(check=CHECK, next=NEXT, next_output="s3://data/next", dispatch=Dispatch.MAP)

    run = new_run(world.deployment, asked)

    assert run.check and run.next and run.dispatch is Dispatch.MAP
    assert (run.check.source_uri, run.next.script.source_uri, run.next.output_uri) == (CHECK, NEXT, "s3://data/next/")
    for ref in (run.check, run.next.script):
        assert ref.uri.startswith(world.deployment.run_uri("run-1", f"script/{ref.sha256}/"))
        assert world.store.get(ref.uri) == world.store.get(ref.source_uri)
    assert new_run(world.deployment, asked) == run


def test_a_next_script_without_a_folder_writes_beside_its_run(world: World) -> None:
    run = new_run(world.deployment, world.request(next=NEXT))

    assert run.next and run.next.output_uri == f"s3://{world.deployment.bucket}/output/run-1-next/"


def test_two_concurrent_requests_get_the_same_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_run(world.deployment, world.request())

    def not_there_yet(run_id: str) -> object:
        monkeypatch.undo()
        raise RunNotFoundError(run_id)

    monkeypatch.setattr(world.ledger.runs, "get", not_there_yet)

    assert new_run(world.deployment, world.request()) == first


def test_a_run_id_is_made_from_the_scripts_name(world: World) -> None:
    world.store.put("s3://data/jobs/Flights Daily_2.py", b"")
    run = new_run(world.deployment, world.request(run_id="", script="s3://data/jobs/Flights Daily_2.py"))
    assert run.run_id.startswith("flights-daily-2-20231114t221320-")
    assert new_run(world.deployment, world.request(run_id="", name="Nightly")).run_id.startswith("nightly-2023")


@pytest.mark.parametrize("name", ["", "---", "a" * 200, "Ünïcode Näme", "x" * 39 + "-y"])
def test_any_name_gives_a_valid_and_unique_run_id(name: str) -> None:
    ids = {run_id_of(RunRequest(f"{name}.py", (), ""), 1_700_000_000.0) for _ in range(20)}
    assert len(ids) == 20
    assert all(RUN_ID.fullmatch(run_id) for run_id in ids)


def test_a_repaired_script_keeps_its_files_and_conf(world: World) -> None:
    world.store.put("s3://data/lib.zip", b"PK")
    world.store.put("s3://data/lookup.json", b"{}")
    conf = {"spark.a": "1", "spark.b": True}
    beside = {"py_files": ("s3://data/lib.zip",), "spark_files": ("s3://data/lookup.json",), "conf": conf}
    run = new_run(world.deployment, world.request(**beside))
    world.store.put(SCRIPT, b"print('repaired')\n")

    repaired = repaired_script(world.deployment, run, SCRIPT)

    assert replace(repaired, uri="", sha256="") == replace(run.scripts[0], uri="", sha256="")
    assert repaired.sha256 != run.scripts[0].sha256
    assert world.store.get(repaired.uri) == b"print('repaired')\n"
    assert world.store.get(run.scripts[0].uri) == b"print('daily')\n"
    assert [world.store.get(uri) for uri in repaired.py_files] == [b"PK", b"{}", b'{"spark.a": "1", "spark.b": "true"}']


def test_modules_in_a_scripts_folder_are_stored_with_the_script(world: World, tmp_path: Path) -> None:
    def modules(ref: ScriptRef) -> list[str]:
        found = [uri for uri in ref.py_files if uri.endswith(f"/{MODULES}")]
        return [zipfile.ZipFile(io.BytesIO(world.store.get(uri))).read("helpers.py").decode() for uri in found]

    (script := tmp_path / "job.py").write_text("import helpers\n")
    (tmp_path / "helpers.py").write_text("x = 1\n")
    run = new_run(world.deployment, world.request(script=str(script)))
    (tmp_path / "helpers.py").write_text("x = 2\n")

    repaired = repaired_script(world.deployment, run, str(script))

    assert (modules(run.scripts[0]), modules(repaired)) == (["x = 1\n"], ["x = 2\n"])
    with pytest.raises(RunExistsError, match="with other script"):  # the modules are part of the script
        new_run(world.deployment, world.request(script=str(script)))


# --- Iceberg's catalog ---

GLUE, BY_TYPE = "glue:s3://b/lake", {"PYICEBERG_CATALOG__ICEBERG__TYPE": "rest"}
ENCRYPTED = {**BY_TYPE, "SPARKLET_WRITE_ENCRYPTION": "AES256"}


@pytest.mark.parametrize("params", [{}, {"warehouse": "s3://b/lake"}])
def test_a_table_of_iceberg_without_a_catalog_is_refused(world: World, params: dict[str, str]) -> None:
    with pytest.raises(PlanError, match=r"no catalog .* iceberg:db\.t: .*--param warehouse=glue:.*--env PYICEBERG"):
        new_run(replace(world.deployment, functions=dict), world.request(table="iceberg:db.t", params=params))

    assert world.deployment.known_run("run-1") is None and world.keys("s3://sparklet/") == []


def test_a_commit_without_the_demanded_encryption_is_refused(world: World) -> None:
    """Otherwise S3 would refuse each file that pyiceberg writes at the run's end."""
    with pytest.raises(PlanError, match="WriteEncryption"):
        new_run(replace(world.deployment, functions=lambda: ENCRYPTED), world.request(table="iceberg:db.t"))


@pytest.mark.parametrize(
    ("changes", "functions"),
    [
        ({"params": {"warehouse": GLUE}}, {}),
        ({"env": BY_TYPE}, {}),
        ({}, BY_TYPE),
        ({}, {"PYICEBERG_CATALOG__ICEBERG__WAREHOUSE": GLUE}),
        ({"table": "delta:s3://b/t"}, {}),
        ({"table": "delta:s3://b/t"}, ENCRYPTED),
    ],
)
def test_a_catalog_may_be_named_by_request_or_functions(
    world: World, changes: dict[str, Any], functions: dict[str, str]
) -> None:
    request = world.request(**{"table": "iceberg:db.t", **changes})

    assert new_run(replace(world.deployment, functions=lambda: functions), request).table == request.table


def test_a_caller_without_the_right_to_read_settings_is_accepted(world: World) -> None:
    def forbidden() -> dict[str, str]:
        raise SettingsError("you may not")

    assert new_run(replace(world.deployment, functions=forbidden), world.request(table="iceberg:db.t")).table
