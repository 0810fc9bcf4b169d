"""Every list that Step Functions' readers know goes through the planner: as a command, as a request, into a map."""

import json
from collections.abc import Callable

import pytest

from sparklet.planning.plan_requests import handle_request
from sparklet.settings import PlannerSettings
from tests.unit.cli.conftest import RUN
from tests.unit.cli.conftest import terminal as terminal
from tests.unit.inputs.inventories import inventory_row, write_inventory
from tests.unit.inputs.test_list_formats import parquet
from tests.world import SCRIPT, SOURCE, World

Write = Callable[[World, list[str]], str]
KEYS = [uri.removeprefix("s3://data/") for uri in (f"{SOURCE}00000.csv", f"{SOURCE}00001.csv")]


def stored(name: str, body: Callable[[list[str]], bytes]) -> Write:
    def write(world: World, uris: list[str]) -> str:
        world.store.put(f"s3://lists/{name}", body(uris))
        return f"s3://lists/{name}"

    return write


def inventory(form: str) -> Write:
    return lambda world, uris: write_inventory(world.store, form, [[inventory_row(key, 10)] for key in KEYS])


LISTS: dict[str, Write] = {
    "lines": stored("l.txt", lambda uris: "\n".join(uris).encode()),
    "csv": stored("l.csv", lambda uris: ("n,uri\n" + "".join(f"1,{uri}\n" for uri in uris)).encode()),
    "json": stored("l.json", lambda uris: json.dumps(uris).encode()),
    "jsonl": stored("l.jsonl", lambda uris: "".join(json.dumps({"uri": uri}) + "\n" for uri in uris).encode()),
    "parquet": stored("l.parquet", lambda uris: parquet([{"uri": uri} for uri in uris])),
    **{f"inventory-{form}": inventory(form) for form in ("CSV", "ORC", "Parquet")},
}


def objects_of(world: World) -> list[str]:
    return [uri for shard in world.planned() for uri in shard.inputs]


@pytest.mark.parametrize("form", ["s3-list", *LISTS])
def test_a_request_for_a_map_reads_each_format(form: str) -> None:
    world = World()
    uris = world.put(2)
    given = {"inputs": [SOURCE]} if form == "s3-list" else {"lists": [LISTS[form](world, uris)]}
    event = {"script": SCRIPT, "output": "s3://data/out/", "run_id": RUN, "max_objects": 1, "dispatch": "map", **given}

    answer = handle_request(world.at, event, PlannerSettings((SCRIPT,), 0, 0), "r-1", lambda: 900.0)
    refs = world.handed_out(world.step("batch", batch=0))

    assert (answer["sealed"], objects_of(world)) == (True, uris)
    assert world.children(refs) == 2
    assert world.step("check")["state"] == "SUCCEEDED"
