"""`sparklet status RUN --verify`: ledger, manifest and output compared, for people and for programs."""

from sparklet.model import Failure
from tests.unit.cli.conftest import RUN, Desk


def test_a_run_whose_results_are_there_is_verified(desk: Desk) -> None:
    desk.world.run(2)
    desk.world.work()
    desk.world.check()
    for number in range(2):
        desk.world.store.put(f"{desk.world.ledger.runs.get(RUN).shard_output(number)}/part-0.parquet", b"x")

    assert "verified: ledger, manifest and output say the same" in desk.types("status", RUN, "--verify").out
    assert desk.types("status", RUN, "--verify", "--json").document["differences"] == []
    assert "differences" not in desk.types("status", RUN, "--json").document


def test_what_differs_is_told_with_its_remedy(desk: Desk) -> None:
    desk.world.run(2)
    desk.world.work()
    desk.world.check()
    desk.world.store.put(f"{desk.world.ledger.runs.get(RUN).shard_output(1)}/part-0.parquet", b"x")

    told = desk.types("status", RUN, "--verify")
    (found,) = desk.types("status", RUN, "--verify", "--json").document["differences"]

    assert "1 SUCCEEDED shards reported rows and nothing lies in" in " ".join((told.out + told.err).split())
    assert "verified" not in told.out
    assert (found["kind"], found["subject"], found["count"]) == ("NO_OUTPUT", RUN, 1)


def test_explain_tells_failures_of_the_script_from_messages_that_came_back_unrun(desk: Desk) -> None:
    desk.world.run(2)
    for _ in range(3):
        assert desk.world.ledger.attempts.count_requeue(desk.world.shards()[0], unrun=True)
    never, broken = desk.world.shards()
    assert desk.world.ledger.attempts.abandon(never, Failure("NeverStarted", "never started", retryable=False))
    assert desk.world.ledger.attempts.abandon(broken, Failure("ValueError", "bad", retryable=False))

    groups = {each["error_class"]: each["came_back_unrun"] for each in desk.types("explain", RUN, "--json").document}

    assert groups == {"NeverStarted": 3, "ValueError": 0}
    assert "came back unrun 3 messages" in " ".join(desk.types("explain", RUN).out.split())


def test_what_came_back_unrun_is_told(desk: Desk) -> None:
    desk.world.run(2)
    for record in desk.world.shards():
        assert desk.world.ledger.attempts.count_requeue(record, unrun=True)

    assert "came back unrun 2 messages" in " ".join(desk.types("status", RUN).out.split())
    assert desk.types("status", RUN, "--json").document["came_back_unrun"] == 2
