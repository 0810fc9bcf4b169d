"""Failures grouped by cause, each with a remedy and the options that redrive exactly its shards."""

import pytest

from sparklet.app.explain import DATA, EITHER, SCRIPT, FailureGroup, ShardRanges, explain, pattern_of
from sparklet.app.status import observe
from sparklet.errors import PlanError
from sparklet.model import Failure, Run, ShardResult
from sparklet.planning.new_run import repaired_script
from sparklet.runs.redrive import failed_with, matches_cause, redrive
from tests.world import SCRIPT as JOB
from tests.world import SOURCE, World


def explained(world: World, run: Run) -> tuple[FailureGroup, ...]:
    found = observe(run, world.ledger.shards.list(run.run_id), world.clock.now_s())
    return explain(world.deployment, run, found.failures.values(), found.succeeded)


def failed(world: World, *failures: Failure) -> tuple[FailureGroup, ...]:
    """Do a run whose shards fail with these failures, and one more that succeeds. Return its groups."""
    run = world.run(len(failures) + 1)
    world.work(lambda n: failures[n] if n < len(failures) else ShardResult())
    world.check()
    return explained(world, run)


def broken(error_class: str, message: str) -> Failure:
    return Failure(error_class, message, retryable=False)


@pytest.mark.parametrize(
    ("message", "pattern"),
    [
        ("002.csv is not to my taste", "<file> is not to my taste"),
        ("s3://b/in/ü b.csv: there is none, at 17 of 23", "<address> <file>: there is none, at <n> of <n>"),
        ("no such file: /tmp/task-4f2a/inputs/x.parquet", "no such file: <path>"),
        ("attempt 3f9a1c22ab10 was not heard of", "attempt <id> was not heard of"),
        ("bad row at line 7: 'x1' in -3.5", "bad row at line <n>: 'x1' in <n>"),
        ("no such column: größe", "no such column: größe"),
        ("'x' is 3, line 7 of job_2.py (exit code 1)", "'x' is <n>, line 7 of job_2.py (exit code <n>)"),
        ("no (Request ID: 4F-x; Extended Request ID: a/b+Z9=)", "no (Request ID: <id>; Extended Request ID: <id>)"),
        ("invalid syntax (job.py, line 12)", "invalid syntax (job.py, line 12)"),
    ],
)
def test_names_of_single_objects_do_not_split_a_cause(message: str, pattern: str) -> None:
    assert pattern_of(message) == pattern
    assert pattern_of(pattern) == pattern


def test_one_cause_in_many_files_is_one_group_with_one_example(world: World) -> None:
    (group,) = failed(world, *(broken("ValueError", f"{n:05d}.csv is bad, line 31 of job.py") for n in range(7)))

    assert (group.count, group.shards.text(), group.error_class) == (7, "0-6", "ValueError")
    assert (group.example.number, group.example_object, group.line) == (0, f"{SOURCE}00000.csv", 31)
    assert group.redrive == ()


@pytest.mark.parametrize(("is_repaired", "at_fault"), [(False, DATA), (True, EITHER)])
def test_shards_of_an_earlier_script_do_not_show_who_is_at_fault(
    world: World, is_repaired: bool, at_fault: str
) -> None:
    failed(world, broken("ValueError", "bad"))
    run = world.ledger.runs.get("run-1")
    if is_repaired:
        world.store.put(JOB, b"print('repaired')\n")
    run = redrive(world.deployment, "run-1", script=repaired_script(world.deployment, run, JOB)).run
    world.work(lambda _: broken("ValueError", "bad"))

    [group] = explained(world, run)

    assert group.advice.at_fault == at_fault


def test_groups_come_by_count_and_advice_names_run_and_shard(world: World) -> None:
    lonely, common = broken("OutOfMemoryError", "Java heap space"), broken("ValueError", "bad")
    many, few = failed(world, lonely, common, common)

    assert (many.error_class, few.error_class) == ("ValueError", "OutOfMemoryError")
    assert "sparklet logs run-1 1" in many.advice.remedy and many.advice.at_fault == DATA
    assert "memory" in few.advice.reason


@pytest.mark.parametrize(
    ("failures", "succeeds", "at_fault"),
    [
        ([("AnalysisException", "no such column")] * 3, False, SCRIPT),
        ([("AnalysisException", "no such column")] * 3, True, DATA),
        ([("SparkException", "[MALFORMED_RECORD_IN_PARSING]")], False, EITHER),
        ([("SparkException", "[MALFORMED_RECORD_IN_PARSING]")], True, DATA),
        ([("SparkRuntimeException", "s3://in/0.csv: [MALFORMED_CSV_RECORD] a,b")], True, DATA),
        ([("IOException", "s3://in/0.csv.gz: not a gzip file")], True, DATA),
        ([("KeyError", "'day'")] * 2, False, SCRIPT),
        ([("SyntaxError", "invalid syntax")], True, SCRIPT),
        ([("NameError", "name 'spork' is not defined")] * 27, True, SCRIPT),
        ([("FileNotFoundException", "it is gone")] * 2, False, DATA),
        ([("FileNotFoundException", f"it is gone: {SOURCE}0.csv")] * 2, False, DATA),
        ([("UnknownStoreException", "`s3a://mine/x': Bucket does not exist")] * 2, False, SCRIPT),
        ([("OutOfMemoryError", "Java heap space")] * 2, False, ""),
        ([("ThrottlingException", "slow down")], True, ""),
    ],
)
def test_data_or_script_is_blamed(world: World, failures: list[tuple[str, str]], succeeds: bool, at_fault: str) -> None:
    run = world.run(len(failures) + succeeds)
    world.work(lambda n: broken(*failures[n]) if n < len(failures) else ShardResult())

    (group,) = explained(world, run)

    assert group.advice.at_fault == at_fault
    names_script, names_data = "--script" in group.advice.remedy, "that input" in group.advice.remedy
    assert not ((names_script and at_fault == DATA) or (names_data and at_fault == SCRIPT))  # one, the reason's


def test_the_options_redrive_exactly_the_groups_shards(world: World) -> None:
    failures = [
        broken("ValueError", "column 3 is not a number"),
        broken("ValueError", "column 7 is not a number"),
        broken("ValueError", "the header is wrong"),
        broken("KeyError", "'day'"),
        broken("java.lang.OutOfMemoryError", "Java heap space"),
        broken("Odd", "1"),
        broken("Odder", "Odd: 1"),
    ]
    groups = failed(world, *failures)

    for group in groups:
        option, value = group.redrive
        numbers = (
            failed_with(world.deployment, "run-1", value) if option == "--cause" else tuple(map(int, value.split(",")))
        )
        assert [failures[n] for n in numbers] == [f for f in failures if pattern_of(f.message) == group.pattern]
        assert len(numbers) == group.count


def test_a_cause_is_a_class_or_words_of_the_message(world: World) -> None:
    failed(world, broken("a.b.ParseException", "Syntax error near 'FORM'"), broken("ValueError", "bad"))
    first, second, _ = world.shards()

    assert matches_cause(first, "ParseException") and matches_cause(first, "a.b.ParseException")
    assert matches_cause(first, "syntax ERROR near") and not matches_cause(second, "syntax")
    assert failed_with(world.deployment, "run-1", "ValueError") == (1,)
    with pytest.raises(PlanError, match=r"ValueError.*causes are: ValueError, a\.b\.ParseException"):
        failed_with(world.deployment, "run-1", "ValueError", among=[0])


def test_an_example_with_a_lost_plan_part_is_still_explained(world: World) -> None:
    run = world.run(1)
    world.work(lambda _: broken("ValueError", "bad"))
    for part in world.ledger.runs.parts("run-1"):
        world.store.delete(world.deployment.part_uri("run-1", part.part))
    (group,) = explained(world, run)
    assert (group.example_object, group.count) == ("", 1)


def test_shard_numbers_are_shown_as_ranges_and_shortened() -> None:
    numbers = ShardRanges()
    for number in [1, 2, 3, 7, 9, 10]:
        numbers.add(number)
    assert (numbers.text(), numbers.whole) == ("1-3,7,9-10", True)

    for number in range(100, 1000, 2):
        numbers.add(number)
    assert not numbers.whole and len(numbers.ranges) == 12
