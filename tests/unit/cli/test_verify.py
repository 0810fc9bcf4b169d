"""`sparklet status RUN --verify`: ledger, manifest and output compared, for people and for programs."""

from sparklet.model import Failure
from tests.unit.cli.conftest import RUN, Terminal


def test_a_run_with_all_its_results_is_verified(terminal: Terminal) -> None:
    terminal.world.run(2)
    terminal.world.work()
    terminal.world.check()
    for number in range(2):
        terminal.world.store.put(f"{terminal.world.ledger.runs.get(RUN).shard_output(number)}/part-0.parquet", b"x")

    assert "verified: ledger, manifest and output agree" in terminal.types("status", RUN, "--verify").out
    assert terminal.types("status", RUN, "--verify", "--json").document["differences"] == []
    assert "differences" not in terminal.types("status", RUN, "--json").document


def test_differences_are_shown_with_their_remedy(terminal: Terminal) -> None:
    terminal.world.run(2)
    terminal.world.work()
    terminal.world.check()
    terminal.world.store.put(f"{terminal.world.ledger.runs.get(RUN).shard_output(1)}/part-0.parquet", b"x")

    told = terminal.types("status", RUN, "--verify")
    (found,) = terminal.types("status", RUN, "--verify", "--json").document["differences"]

    assert "1 SUCCEEDED shards reported rows and nothing lies in" in " ".join((told.out + told.err).split())
    assert "verified" not in told.out
    assert (found["kind"], found["subject"], found["count"]) == ("NO_OUTPUT", RUN, 1)


def test_explain_separates_script_failures_from_unrun_messages(terminal: Terminal) -> None:
    terminal.world.run(2)
    for _ in range(3):
        assert terminal.world.ledger.attempts.count_requeue(terminal.world.shards()[0], unrun=True)
    never, broken = terminal.world.shards()
    assert terminal.world.ledger.attempts.abandon(never, Failure("NeverStarted", "never started", retryable=False))
    assert terminal.world.ledger.attempts.abandon(broken, Failure("ValueError", "bad", retryable=False))

    groups = {
        each["error_class"]: each["came_back_unrun"] for each in terminal.types("explain", RUN, "--json").document
    }

    assert groups == {"NeverStarted": 3, "ValueError": 0}
    assert "redelivered 3 messages" in " ".join(terminal.types("explain", RUN).out.split())


def test_messages_that_returned_unrun_are_reported(terminal: Terminal) -> None:
    terminal.world.run(2)
    for record in terminal.world.shards():
        assert terminal.world.ledger.attempts.count_requeue(record, unrun=True)

    assert "redelivered 2 messages" in " ".join(terminal.types("status", RUN).out.split())
    assert terminal.types("status", RUN, "--json").document["came_back_unrun"] == 2
