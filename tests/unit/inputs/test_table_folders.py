"""Table folders: a plan refuses their single files, anywhere in the input and however it is read."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparklet.errors import ObjectForbiddenError, PlanError, UnplannableError
from sparklet.model import Position, RunOptions
from sparklet.planning.inputs.folders import local_files
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.inputs.selection import Filter
from sparklet.planning.inventory import Inventory
from sparklet.planning.packing import preview
from tests.stand_ins.memory import MemoryObjectStore
from tests.world import SOURCE, World

UUID = "2ee553a4-1aba-4fb3-8a80-96ec29cc42d9"
TABLES = {
    "delta": [
        *(f"_delta_log/{0:020d}.json", f"_delta_log/{10:020d}.checkpoint.parquet"),
        f"_delta_log/{10:020d}.checkpoint.0000000001.0000000002.parquet",
    ],
    "hudi": [".hoodie/hoodie.properties"],
    "iceberg": [
        *("metadata/v1.metadata.json", "metadata/v2.gz.metadata.json", f"metadata/00000-{UUID}.metadata.json"),
        *(f"metadata/00123-{UUID}.gz.metadata.json", "metadata/v3.metadata.json.gz"),
    ],
}
LOGS = [(kind, log) for kind, logs in TABLES.items() for log in logs]
OTHERS = [  # of Bedrock, Kendra, Athena, Spark and people
    *("metadata/report.pdf.metadata.json", "report.pdf.metadata.json", "metadata/v1.json", "a.csv.metadata"),
    *("_delta_log.json", "_delta_log/readme.md", "hoodie.properties", ".hoodie/other.properties", "_spark_metadata/0"),
    *(
        f"00000-{UUID}.metadata.json",
        f"my_metadata/00000-{UUID}.metadata.json",
        "x_delta_log/00000000000000000000.json",
    ),
]
ROWS = ["2026/a.parquet", "data/a.parquet", "day=1/a.parquet", "part-0.parquet", "z/a.parquet"]


def plan(
    names: Sequence[str], folder: str = "s3://b/in/", position: Position | None = None, **options: Any
) -> list[str]:
    """The planned keys below ``in/``."""
    store = MemoryObjectStore()
    for name in names:
        store.put(f"s3://b/in/{name}", b"data")
    inventory = Inventory(store, (folder,), RunOptions(**options))
    return [found.item.uri.removeprefix("s3://b/in/") for found in inventory.objects(position or Position())]


@given(log=st.sampled_from(LOGS), where=st.sampled_from(["", "x/", "day=1/t/", "A/b/"]), row=st.sampled_from(ROWS))
def test_a_tables_files_are_refused_at_any_depth(log: tuple[str, str], where: str, row: str) -> None:
    kind, name = log
    with pytest.raises(UnplannableError) as refused:
        plan(["0.csv", f"{where}{name}", f"{where}{row}", "zz.csv"])

    assert f"s3://b/in/{where} is the folder of a {kind.capitalize()} table" in str(refused.value)
    assert f"spark.read.format('{kind}').load('s3://b/in/{where}')" in str(refused.value)


@given(log=st.sampled_from(LOGS), row=st.sampled_from(ROWS))
def test_a_refusals_two_excludes_make_the_plan_pass(log: tuple[str, str], row: str) -> None:
    _, name = log
    names = ["a.csv", f"t/{name}", f"t/{row}"]
    with pytest.raises(UnplannableError) as refused:
        plan(names)
    without_table, without_log = re.findall(r"--exclude '([^']+)'", str(refused.value))

    assert plan(names, exclude=(without_table,)) == ["a.csv"]
    assert plan(names, exclude=(without_log,)) == ["a.csv", f"t/{row}"]


@pytest.mark.parametrize("name", OTHERS)
def test_metadata_files_of_other_services_make_no_table(name: str) -> None:
    assert set(ROWS) <= set(plan([name, *ROWS]))


@pytest.mark.parametrize("log", TABLES["delta"])
@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["t/a.parquet"], {"include": ("*.parquet",)}),
        (["t/a.parquet"], {"exclude": ("*.json", "*.checkpoint*")}),
        (["t/a.parquet", "t/b.txt"], {"hidden": True}),
    ],
)
def test_patterns_for_files_do_not_hide_a_table(names: list[str], options: dict[str, Any], log: str) -> None:
    with pytest.raises(UnplannableError, match="a Delta table"):
        plan([*names, f"t/{log}"], **options)


def test_a_table_is_allowed_if_none_of_its_files_is_planned() -> None:
    names = ["a.csv", f"t/{TABLES['delta'][0]}", "t/a.parquet", "u/b.csv"]

    assert plan(names, include=("*.csv",)) == ["a.csv", "u/b.csv"]
    assert plan(names, exclude=("t/**",)) == ["a.csv", "u/b.csv"]


@pytest.mark.parametrize("log", [TABLES["delta"][0], TABLES["iceberg"][0]])
def test_a_tables_log_folder_can_be_an_input(log: str) -> None:
    name = log.partition("/")[2]

    assert plan([f"t/{log}", "t/a.parquet"], f"s3://b/in/t/{log.partition('/')[0]}/") == [f"t/{log}"]
    assert plan([f"t/{log}", "t/a.parquet"], hidden=True, include=(name,)) == [f"t/{log}"]
    assert plan([f"t/{log}", "t/a.parquet"], "s3://b/in/t/a.parquet") == ["t/a.parquet"]  # named by the user


@pytest.mark.parametrize("after", ["in/t/1.parquet", "in/t/2.parquet"])
def test_a_resumed_plan_refuses_a_table_that_it_began_to_plan(after: str) -> None:
    with pytest.raises(UnplannableError, match="a Delta table"):
        plan(["t/1.parquet", "t/2.parquet", f"t/{TABLES['delta'][0]}", "u.csv"], position=Position(0, after))


@given(log=st.sampled_from(LOGS), below=st.sampled_from(["", "day=1/", "data/", "2026/01/02/"]))
@example(log=("delta", f"_delta_log/{0:020d}.crc"), below="day=1/")
def test_a_part_of_a_table_is_refused_before_it_is_listed(log: tuple[str, str], below: str) -> None:
    world = World()
    world.store.put(f"s3://lake/db/t/{log[1]}", b"{}")
    world.store.put(f"s3://lake/db/t/{below}a.parquet", b"data")
    request = world.request(inputs=(f"s3://lake/db/t/{below}",))

    with pytest.raises(UnplannableError, match=f"s3://lake/db/t/ is the folder of a {log[0].capitalize()} table"):
        preview(world.deployment, request)
    excluded = RunOptions(exclude=(f"**/{log[1].partition('/')[0]}/**",))
    assert preview(world.deployment, world.request(inputs=request.inputs, options=excluded)).objects == 1


def test_folders_above_that_may_not_be_listed_are_no_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        world.store.put(f"{SOURCE}{number}.csv", b"data")
    listed = world.store.list

    def list_below(prefix_uri: str, start_after: str = "") -> object:
        if not prefix_uri.startswith(SOURCE):
            raise ObjectForbiddenError("not yours")
        return listed(prefix_uri, start_after)

    monkeypatch.setattr(world.store, "list", list_below)

    assert preview(world.deployment, world.request()).objects == 2


def test_a_list_may_name_a_tables_files(world: World) -> None:
    for name in (TABLES["delta"][0], "a.parquet"):
        world.store.put(f"s3://lake/t/{name}", b"data")

    listed = ListRequest("list.txt", b"s3://lake/t/a.parquet\n", "lines")
    assert preview(world.deployment, world.request(inputs=(), lists=(listed,))).objects == 1


@pytest.mark.parametrize(("kind", "log"), LOGS)
def test_a_local_table_is_refused_before_it_is_copied(kind: str, log: str, tmp_path: Path) -> None:
    for name in (log, "day=1/a.parquet"):
        (tmp_path / "x" / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / "t" / name).write_text("x")

    for folder in (tmp_path, tmp_path / "x" / "t", tmp_path / "x" / "t" / "day=1"):
        for wanted in (Filter(), Filter(include=["*.parquet"])):
            with pytest.raises(PlanError, match=f"/x/t/ is the folder of a {kind.capitalize()} table"):
                list(local_files(folder, wanted))
        assert list(local_files(folder, Filter(exclude=[f"**/{log.partition('/')[0]}/**"])))
