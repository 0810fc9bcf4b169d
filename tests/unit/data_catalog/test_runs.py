"""Runs over a Glue table: each object is planned once with its partition's values; later changes do not matter."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from sparklet.errors import NothingNewError, PlanError, RunExistsError, TableError
from sparklet.model import InputObject, Run, RunState, Shard, Slice, SliceKind
from sparklet.planning.new_run import new_run
from sparklet.planning.packing import PackedInput, preview
from sparklet.planning.planner import plan
from sparklet.planning.request import RunRequest, read_request
from sparklet.worker.executor import shard_event
from tests.stand_ins.glue import MemoryGlue, partition_input, table_input
from tests.unit.worker.script_events import check_event
from tests.world import SCRIPT, Fault, KilledError, World

TABLE = table_input("orders", "s3://lake/orders/", by="day date;region string")
DAYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


class Lake(World):
    """A world whose catalog has a table with three partitions of two objects."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.glue = MemoryGlue(TABLE)
        self.catalog = self.glue.catalog.objects
        for day in DAYS:
            self.add(day)

    def add(self, day: str, keys: tuple[str, ...] = ("a", "b")) -> None:
        folder = f"s3://lake/{day.replace('-', '/')}"  # the folder names have no column names
        self.glue.partitions.append(partition_input(TABLE, [day, "eu"], folder))
        for key in keys:
            self.store.put(f"{folder}/{key}.parquet", b"PAR1")

    def asked_for(self, run_id: str = "run-1", **given: Any) -> RunRequest:
        document = {"script": SCRIPT, "inputs": ["glue:sales.orders"], "output": f"s3://data/{run_id}/", **given}
        return read_request({"run_id": run_id, "max_objects": 3, **document})

    def planned_run(self, run_id: str = "run-1", **given: Any) -> Run:
        return plan(self.deployment, new_run(self.deployment, self.asked_for(run_id, **given)).run_id)

    def days(self, run_id: str = "run-1") -> list[tuple[str, str]]:
        """The objects of all shards with their days."""
        items = (item for shard in self.planned(run_id) for item in shard.objects)
        return [(item.uri[-12:], item.partition[0]) for item in items]


@pytest.fixture
def lake() -> Lake:
    return Lake()


EACH = [(f"{day[8:]}/{key}.parquet", day) for day in DAYS for key in "ab"]


def test_each_object_is_planned_with_its_partition(lake: Lake) -> None:
    run = lake.planned_run(where="day >= '2026-01-02'")

    assert lake.days() == EACH[2:] and run.object_count == 4
    assert run.lists[0].table["name"] == "sales.orders" and run.options.where == "day >= '2026-01-02'"


def test_a_shards_event_has_the_entry_and_the_values(lake: Lake) -> None:
    run = lake.planned_run()

    for record, shard in zip(lake.shards(), lake.planned(), strict=True):
        event = shard_event(run, replace(record, attempt_id="a"), shard, "s3://sparklet/staged/1")
        check_event(event)
        assert [tuple(each) for each in event["catalog_table"]["values"]] == [item.partition for item in shard.objects]
        assert [key for key, _ in event["catalog_table"]["keys"]] == ["day", "region"]


def test_a_dry_run_shows_the_plan(lake: Lake) -> None:
    assert preview(lake.deployment, lake.asked_for()).objects == 6


def test_the_same_request_finds_its_run_beside_new_partitions(lake: Lake) -> None:
    new_run(lake.deployment, lake.asked_for())
    lake.add("2026-01-04")

    again = new_run(lake.deployment, lake.asked_for())

    assert plan(lake.deployment, again.run_id).object_count == 6
    with pytest.raises(RunExistsError, match="options"):
        new_run(lake.deployment, lake.asked_for(where="day = '2026-01-01'"))
    with pytest.raises(RunExistsError, match="lists"):
        new_run(lake.deployment, lake.asked_for(inputs=["glue:sales.others"]))


def test_a_killed_planner_is_continued_as_it_was_read() -> None:
    for calls in range(1, 60):
        lake = Lake()
        new_run(lake.deployment, lake.asked_for(shard_size="4"))
        fault = Fault(calls, after_effect=calls % 2 == 0)
        try:
            plan(fault.deployment(lake.deployment), "run-1", part_shards=2)
        except KilledError:
            lake.add("2026-01-04")
            plan(lake.deployment, "run-1", part_shards=2)
            assert lake.days() == EACH
        else:
            assert lake.days() == EACH and calls > 10
            return
    raise AssertionError("the planner never ends")


def test_an_incremental_run_takes_new_and_changed_objects(lake: Lake) -> None:
    given = {"name": "nightly", "incremental": True}
    lake.planned_run("run-1", **given)
    lake.work()
    assert lake.check().run.state is RunState.SUCCEEDED

    with pytest.raises(NothingNewError):
        new_run(lake.deployment, lake.asked_for("run-2", **given))
    lake.add("2026-01-04", ("a",))
    lake.store.put("s3://lake/2026/01/01/a.parquet", b"PAR1 again")
    lake.planned_run("run-3", **given)

    assert lake.days("run-3") == [EACH[0], ("04/a.parquet", "2026-01-04")]


def test_patterns_choose_among_a_tables_objects(lake: Lake) -> None:
    run = lake.planned_run(exclude=["b.parquet"])

    assert lake.days() == EACH[::2] and run.skipped == {"matched by --exclude": 3}


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"inputs": ["glue:sales.orders", "s3://lake/more/"]}, PlanError, "only input"),
        ({"inputs": ["glue:sales.orders", "glue:sales.others"]}, PlanError, "only input"),
        ({"lists": ["s3://lake/list.csv"]}, PlanError, "only input"),
        ({"items": ["Ulm"]}, PlanError, "only input"),
        ({"inputs": ["s3://lake/"], "where": "day = '2026-01-01'"}, PlanError, "glue:DATABASE.TABLE"),
        ({"where": "day = '2030-01-01'"}, PlanError, r"glue:sales\.orders"),  # partitions without objects
        ({"where": "amount > 3"}, TableError, "amount"),
        ({"split": "csv"}, TableError, "split parquet"),
        ({"inputs": ["glue:orders"]}, TableError, r"DATABASE\.TABLE"),
    ],
)
def test_options_that_do_not_fit_a_glue_table_are_refused(
    lake: Lake, given: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        new_run(lake.deployment, lake.asked_for(**given))

    assert not lake.keys("s3://sparklet/runs/")


def test_a_deployment_without_a_catalog_refuses_a_glue_table(lake: Lake) -> None:
    lake.catalog = None

    with closing(PackedInput()) as packed, pytest.raises(PlanError, match="no catalog"):
        packed.open(lake.deployment, lake.asked_for())


@pytest.mark.parametrize("part", [None, Slice(SliceKind.ROW_GROUPS, 2, 5)])
def test_a_plans_line_keeps_an_objects_values(part: Slice | None) -> None:
    item = InputObject("s3://b/a", 7, "e", slice=part, partition=("2026-01-01", "ü"))

    assert Shard.from_line(Shard(3, (item,)).to_line()).objects == (item,)
