"""Copies of local folders to and from the bucket: exactly the output of succeeded shards, no other files."""

import json
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from sparklet.app.costs import WorkerSize
from sparklet.app.local_files import (
    Say,
    changed_files,
    check_output,
    fill,
    fill_output,
    local_part,
    refuse_local_paths,
    refuse_taken_names,
    stored_uri,
    upload,
)
from sparklet.app.stack import OpenStack
from sparklet.errors import PlanError, SettingsError
from sparklet.local.state import StateDir
from sparklet.model import NAMES, Run, RunOptions
from sparklet.planning.request import RunRequest
from sparklet.runs.checker import check
from tests.stand_ins.memory import MemoryObjectStore
from tests.world import World

OUT = "s3://bucket/output/run/"
RUN = Run("run", ("s3://bucket/in/",), OUT, (), created_s=1.0, shard_count=3)
FIRST, SECOND, THIRD = (RUN.shard_output(number).removeprefix(OUT) for number in range(3))


def quiet(text: str) -> None:
    pass


def filled(store: MemoryObjectStore, folder: Path, *shards: int, existing: str = "refuse", say: Say = quiet) -> None:
    """Do what ``fill`` does for a run with this local output."""
    fill(store, replace(RUN, local_output=f"file://{folder}/", options=RunOptions(existing=existing)), shards, say)


@pytest.fixture
def store() -> MemoryObjectStore:
    store = MemoryObjectStore()
    for name in (f"{FIRST}/a.parquet", f"{SECOND}/b.parquet", f"{THIRD}/left-over.parquet"):
        store.put(OUT + name, name.encode())
    return store


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_run_without_output_makes_no_folder(store: MemoryObjectStore, tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "lake").mkdir()  # for a catalog
    for table, name in (("", "out"), ("iceberg:db.t", "lake")):
        fill(store, replace(RUN, table=table, local_output=f"file://{tmp_path / name}/"), (), told.append)

    assert list(tmp_path.iterdir()) == [] and told == []


def test_files_of_succeeded_shards_are_copied_and_repaired(store: MemoryObjectStore, tmp_path: Path) -> None:
    for name in (f"{FIRST}/a.parquet", f"{THIRD}/old.parquet"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name.swapcase())  # other bytes, as many

    filled(store, tmp_path, 0, 1)

    assert files(tmp_path) == [f"{FIRST}/a.parquet", f"{SECOND}/b.parquet"]
    assert not (tmp_path / THIRD).exists()
    assert (tmp_path / f"{FIRST}/a.parquet").read_text() == f"{FIRST}/a.parquet"


def test_foreign_files_stay_unless_they_are_replaced(store: MemoryObjectStore, tmp_path: Path) -> None:
    foreign = ["shard=earlier_3e7_000000/x", "shard=later_3e9_000000/x", "shard=mine/x", "shard=run2_1_000000.csv"]
    foreign.append("notes.txt")
    for name in foreign:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")

    filled(store, tmp_path, 0, existing="append")
    assert files(tmp_path) == sorted([*foreign, f"{FIRST}/a.parquet"])

    filled(store, tmp_path, 0, existing="overwrite")
    assert files(tmp_path) == sorted([*foreign[1:], f"{FIRST}/a.parquet"])


def test_a_used_folder_is_refused_appended_to_or_replaced(tmp_path: Path) -> None:
    (tmp_path / FIRST).mkdir()

    with pytest.raises(SettingsError, match=r"--append.*--overwrite"):
        check_output(tmp_path, "refuse")
    check_output(tmp_path, "append")
    check_output(tmp_path, "overwrite")
    check_output(tmp_path / "new", "refuse")
    (tmp_path / "shard=mine").mkdir()
    with pytest.raises(SettingsError, match="shard=mine, which no Sparklet run wrote"):
        check_output(tmp_path, "overwrite")


def test_files_named_after_inputs_are_known_by_their_lists(store: MemoryObjectStore, tmp_path: Path) -> None:
    """The later run replaces a.json, and the rest of the earlier one goes; other content under a name is the user's."""
    for created_s, names in ((1.0, ("a.json", "b.json")), (2.0, ("a.json",))):
        options = RunOptions(output_per="input", existing="overwrite")
        run = replace(RUN, created_s=created_s, output_uri=f"{OUT}{created_s}/", options=options)
        store.put(f"{run.output_uri}{NAMES}{run.owner_prefix(0)}-a.json", json.dumps(dict.fromkeys(names, 3)).encode())
        for name in names:
            store.put(run.output_uri + name, str(created_s).encode())
        fill(store, replace(run, local_output=f"file://{tmp_path}/"), [0], quiet)
    assert files(tmp_path) == [f"{NAMES}{run.owner_prefix(0)}-a.json", "a.json"]
    assert (tmp_path / "a.json").read_text() == "2.0"

    (tmp_path / "a.json").write_text("my own")
    with pytest.raises(SettingsError, match=r"holds a\.json, which no Sparklet run wrote"):
        check_output(tmp_path, "overwrite")


def test_a_file_that_a_user_put_there_meanwhile_stays(tmp_path: Path) -> None:
    world, folder = World(), tmp_path / "out"
    world.put(1)
    run = world.plan(options=RunOptions(output_per="input"), output_uri=OUT, local_output=f"file://{folder}/")
    world.store.put(f"{OUT}{NAMES}{run.owner_prefix(0)}-a.json", b'{"00000.json": 1}')
    world.store.put(f"{OUT}00000.json", b"x")
    world.work()
    run = check(world.deployment, run.run_id).run
    StateDir(state := tmp_path / "state").create()
    stack = OpenStack(world.deployment, Mock(), "worker", Mock(), WorkerSize(), Mock(), state=state)
    folder.mkdir()
    (folder / "00000.json").write_text("mine")

    with pytest.raises(PlanError, match="exists already"):
        fill_output(stack, run, Mock())
    assert files(folder) == ["00000.json"] and (folder / "00000.json").read_text() == "mine"

    (folder / "00000.json").unlink()
    for _ in range(2):  # the second time the files are the run's own
        fill_output(stack, run, Mock())
    assert (folder / "00000.json").read_text() == "x"


def test_names_that_a_local_output_has_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "may").mkdir(parents=True)
    (tmp_path / "out" / "may").mkdir(parents=True)
    for path in (tmp_path / "in/may/mon.csv", tmp_path / "in/fri.csv", tmp_path / "out/may/mon.parquet"):
        path.write_text("x")
    options = RunOptions(output_per="input", existing="append")
    request = RunRequest("job.py", (str(tmp_path / "in"),), str(tmp_path / "out"), options=options)

    with pytest.raises(PlanError, match="the output holds may/mon already"):
        refuse_taken_names(request)
    refuse_taken_names(replace(request, options=replace(options, output_name="{folder}/{stem}-2{suffix}")))


def test_every_file_is_put_also_beyond_one_batch(tmp_path: Path) -> None:
    store, named = MemoryObjectStore(), []
    for number in range(333):
        path = tmp_path / str(number)
        path.write_text(str(number))
        named.append((path, f"s3://bucket/in/{number}"))

    upload(store, iter(named), quiet)

    assert len(list(store.list("s3://bucket/in/"))) == 333


def test_only_repaired_and_vanished_files_are_put_again(tmp_path: Path) -> None:
    store, named = MemoryObjectStore(), []
    for name in ("same", "repaired", "vanished"):
        (tmp_path / name).write_text(name)
        named.append((tmp_path / name, f"s3://bucket/in/{name}"))
    upload(store, named, quiet)
    (tmp_path / "repaired").write_text("mended")
    store.delete("s3://bucket/in/vanished")

    assert [path.name for path, _ in changed_files(store, named)] == ["repaired", "vanished"]


def test_a_deployed_stack_gets_no_local_paths() -> None:
    with pytest.raises(PlanError, match=r"\./here"):
        refuse_local_paths(["s3://bucket/in/", "./here"], "s3://bucket/out/")


def test_the_address_of_a_copied_local_file_is_found() -> None:
    inputs = {"s3://b/input/r/0/": "/data/in", "s3://b/input/r/1/one.csv": "/data/one.csv"}

    for uri in ("s3://b/input/r/0/2013/01 ü.csv", "s3://b/input/r/1/one.csv"):
        path = local_part(uri, inputs)
        assert path is not None and stored_uri(path, inputs) == uri
    assert local_part("s3://elsewhere/x.csv", inputs) is None
    assert stored_uri(Path("/data/input/x.csv"), inputs) == ""
