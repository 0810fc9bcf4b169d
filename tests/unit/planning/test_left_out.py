"""Objects that a plan leaves out are listed with the reason, in files beside the plan's parts."""

import json
from collections import Counter
from contextlib import closing

import pytest

from sparklet.app.documents import object_status
from sparklet.model import RunOptions
from sparklet.planning.inputs.list_requests import ListRequest
from sparklet.planning.inputs.selection import Reason
from sparklet.planning.plan_files import LeftOut
from tests.world import SOURCE, World

PLAN = "s3://sparklet/runs/run-1/plan/"


def left_out_objects(world: World) -> list[tuple[str, str]]:
    """The objects (with reasons) in the files beside sealed parts and in the last file."""
    parts = [part.part.replace("part-", "skipped-") for part in world.ledger.runs.parts("run-1")]
    there = world.keys(f"{PLAN}skipped-")
    lines = [
        json.loads(line)
        for name in (*parts, "skipped-end.jsonl")
        if f"{PLAN}{name}" in there
        for line in world.store.get(f"{PLAN}{name}").splitlines()
    ]
    return [(line["uri"].removeprefix(SOURCE), line["reason"]) for line in lines]


def test_skipped_objects_are_named_beside_their_part(world: World) -> None:
    world.put(6)
    for key in ("00000x", "00003x", "00003y/", "zz"):
        world.store.put(f"{SOURCE}{key}", b"")
    world.store.put(f"{SOURCE}no.tmp", b"1")

    run = world.plan(
        options=RunOptions(max_objects=1, exclude=("*.tmp",), missing="skip"),
        lists=(ListRequest("-", f"{SOURCE}00001.csv\n{SOURCE}gone".encode()),),
        part_shards=2,
    )

    assert left_out_objects(world) == [
        ("00000x", Reason.EMPTY),
        ("00003x", Reason.EMPTY),
        ("00003y/", Reason.FOLDER_MARKER),
        ("zz", Reason.EMPTY),
        ("00001.csv", Reason.DUPLICATE),
        ("gone", Reason.MISSING),
    ]
    assert run.skipped == {**Counter(reason for _, reason in left_out_objects(world)), Reason.EXCLUDED: 1}
    assert len(world.keys(f"{PLAN}skipped-")) == 3
    fate = object_status(world.deployment, "run-1", f"{SOURCE}00003x")
    assert (fate.shards, fate.left_out) == ((), (Reason.EMPTY,))
    assert object_status(world.deployment, "run-1", f"{SOURCE}zz").left_out == (Reason.EMPTY,)
    twice = object_status(world.deployment, "run-1", f"{SOURCE}00001.csv")
    assert (len(twice.shards), twice.left_out) == (1, (Reason.DUPLICATE,))
    assert object_status(world.deployment, "run-1", f"{SOURCE}no.tmp").left_out == ()


def test_a_run_that_leaves_nothing_out_writes_no_skipped_file(world: World) -> None:
    world.run(3)
    assert world.keys(f"{PLAN}skipped-") == []


def test_only_the_first_skipped_objects_are_listed_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparklet.planning.plan_files.MAX_LINES", 2)
    monkeypatch.setattr("sparklet.planning.plan_files.IN_MEMORY_BYTES", 100)
    with closing(LeftOut()) as left_out:
        for number in range(7):
            left_out.add(f"s3://b/{number}", "v" if number == 4 else "", Reason.DELETE_MARKER)
        first = [json.loads(line) for line in left_out.take(4).splitlines()]
        second = [json.loads(line) for line in left_out.take(3).splitlines()]
        assert left_out.take(5) == b""
    assert [line.get("uri", line) for line in first] == ["s3://b/0", "s3://b/1", {"more": 2}]
    assert second[0] == {"uri": "s3://b/4", "version_id": "v", "reason": Reason.DELETE_MARKER}
    assert second[-1] == {"more": 1}
