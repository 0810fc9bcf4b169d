"""Whatever comes in: a task, an ``EventError`` or a ``SettingsError``, and nothing else, in bounded memory.

The same tests in two sizes: some seconds in every run, and the campaign (``make fuzz``).
"""

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparklet.errors import EventError, ScriptFailedError, SettingsError, SparkletError
from sparklet.events import Outcome, Source, Task, answer, parse_event
from sparklet.job.event_objects import event_objects
from sparklet.log import Log
from sparklet.settings import fanout_settings, spark_settings, worker_settings
from sparklet.spark.runner import Deadline
from tests.fuzz.figures import REFUSED, TASKS, peak_bytes
from tests.fuzz.inputs import SAMPLES, SECRET, Change, changed, environments, json_values, plans
from tests.unit.events.samples import http_request, kafka, kinesis, s3, sns, sns_envelope, sqs
from tests.unit.worker.conftest import do_batch

MAX_ERROR = 1_000
PEAK_PER_BYTE, PEAK_BASE_BYTES = 40, 512 * 1024  # the densest JSON takes 24 bytes for one of text: a list of {}
FAILED = ScriptFailedError("s3://b/x.py", 1, cause_class="ValueError", cause=SECRET, stderr_tail=SECRET)
LISTENS_TO_IDS = (Source.SQS, Source.KINESIS, Source.DYNAMODB)


def sized(small: int, full: int) -> Any:
    """Both sizes of a test."""
    return pytest.mark.parametrize(
        "examples", [pytest.param(small, id="small"), pytest.param(full, id="full", marks=pytest.mark.campaign)]
    )


def run(examples: int, *strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], None]:
    """Call a function with so many examples."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

    def decorate(function: Callable[..., None]) -> None:
        settings(max_examples=examples, deadline=None, database=None, suppress_health_check=checks)(
            given(*strategies)(function)
        )()

    return decorate


def size_of(value: Any) -> int:
    """About as many bytes as the value has in JSON; goes to any depth."""
    total, left = 0, [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            left += item
        total += len(item) + 3 if isinstance(item, str) else 4
    return total


def check(kind: str, event: Any, bits: int, *, trace: bool = False) -> None:
    """Everything that is promised of one event; ``bits`` say which of its tasks fail."""
    most_bytes = PEAK_PER_BYTE * size_of(event) + PEAK_BASE_BYTES
    assert peak_bytes(kind, lambda: promises(kind, event, bits), trace=trace) <= most_bytes


def promises(kind: str, event: Any, bits: int) -> None:
    objects(event)
    try:
        tasks = parse_event(event)
    except EventError as error:
        harmless(error)
        REFUSED[kind] += 1
        return
    TASKS[kind] += len(tasks)
    for task in tasks:
        assert isinstance(task, Task)
        assert SECRET not in task.skip
        if task.problem is not None:
            harmless(task.problem)
    if tasks and tasks[0].source is Source.SQS:
        assert [task.record_ids for task in tasks] == [(record["messageId"],) for record in event["Records"]]
    answered(event, tasks, bits)


def answered(event: Any, tasks: Sequence[Task], bits: int) -> None:
    """One answer, which names what came back and nothing else; or the failure itself."""

    number = {id(task): n % 8 for n, task in enumerate(tasks)}

    def work(task: Task, share: Deadline) -> Outcome:
        failed = task.problem is not None or bool(bits >> number[id(task)] & 1)
        given_answer = {"state": "SUCCEEDED", "answer": {"n": bits}}
        return Outcome(task, task.problem or FAILED if failed else None, not failed, given_answer, {"n": bits})

    outcomes = do_batch(tasks, work, Deadline.within(3600), Log(io.BytesIO()))
    back = [outcome for outcome in outcomes if not outcome.acknowledged]
    try:
        told = answer(event, outcomes, kafka_failures="report" if bits & 1 else "raise")
    except SparkletError as raised:
        failure: SparkletError | None = raised
    else:
        failure = None
    if failure is not None:
        # a shard's failure is told in a class that a state machine knows
        assert {failure, failure.__cause__} & {outcome.error for outcome in back}
        assert tasks[0].source is not Source.API
        return
    if tasks and tasks[0].source is Source.API:
        assert SECRET not in json.dumps(told)
        assert (told["statusCode"] >= 400) == bool(back)
        return
    if not tasks or tasks[0].source in LISTENS_TO_IDS:
        named = [failure["itemIdentifier"] for failure in told["batchItemFailures"]]
        owed = list(dict.fromkeys(outcome.task.record_ids[0] for outcome in back))
        if tasks and tasks[0].source is Source.SQS:  # in the order of the batch, whatever was done first
            in_order = dict.fromkeys(record["messageId"] for record in event["Records"])
            assert named == [message_id for message_id in in_order if message_id in owed]
        else:
            assert named == owed[:1]
    elif "batchItemFailures" in told:
        named = [failure["itemIdentifier"] for failure in told["batchItemFailures"]]
        assert len(named) > 0 if back else named == []
        assert all(item["offset"] in [r["offset"] for r in event["records"][item["partition"]]] for item in named)
    else:
        assert back == []


def objects(event: Any) -> None:
    try:
        uris = event_objects(event)
    except EventError as error:
        harmless(error)
    else:
        assert all(uri.startswith("s3://") for uri in uris)


def harmless(error: SparkletError) -> None:
    """An error is short and tells nobody's secrets."""
    assert SECRET not in str(error)
    assert "hunter2" not in str(error)
    assert SECRET not in str(error.__cause__)
    assert 10 < len(str(error)) < MAX_ERROR


@sized(50, 3_200)
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_mutated_event_gives_tasks_or_an_event_error(sample: str, examples: int) -> None:
    @run(examples, plans(), st.integers(0, 255))
    def _(plan: list[Change], bits: int) -> None:
        check(sample, changed(sample, plan), bits)


@sized(100, 10_000)
def test_any_json_value_is_tasks_or_an_event_error(examples: int) -> None:
    @run(examples, json_values(), st.integers(0, 255))
    def _(event: Any, bits: int) -> None:
        check("any JSON", event, bits)


@sized(300, 15_000)
def test_any_environment_is_settings_or_a_settings_error(examples: int) -> None:
    @run(examples, environments())
    def _(env: dict[str, str]) -> None:
        size_bytes = sum(len(name) + len(value) for name, value in env.items())
        most_bytes = PEAK_PER_BYTE * size_bytes + PEAK_BASE_BYTES
        assert peak_bytes("settings", lambda: settings_promises(env)) <= most_bytes


def settings_promises(env: dict[str, str]) -> None:
    for read in (worker_settings, spark_settings, fanout_settings):
        try:
            read(env)
        except SettingsError as error:
            harmless(error)
            REFUSED["settings"] += 1


MIB = 1024 * 1024 - 4096  # a little less than what is still read
TEXTS = {
    "1 MiB of x": "x" * MIB,
    "1 MiB of {}": '{"s3": [' + "{}," * (MIB // 3) + "{}]}",
    "1 MiB of []": '["s3",' + "[]," * (MIB // 3) + "[]]",
    "1 MiB of numbers": '{"s3": [' + "1," * (MIB // 2) + "1]}",
    "1 MiB of keys": '{"s3": 1,' + ",".join(f'"{n}": {n}' for n in range(MIB // 16)) + "}",
    "1 MiB, one key": '{"s3": 1' + ',"s3": 1' * (MIB // 9) + "}",
    "10,000 deep": '{"s3":' + "[" * 10_000 + "]" * 10_000 + "}",
    "10,000 deep, open": '{"s3":' * 10_000,
    "no JSON": '{"s3": ' + SECRET,
}
CARRIERS: dict[str, Callable[[str], Any]] = {
    "sqs": lambda text: {"Records": [sqs("a", text), sqs("b", "x")]},
    "sns in sqs": lambda text: {"Records": [sqs("a", sns_envelope(text))]},
    "s3 key in sqs": lambda text: {"Records": [sqs("a", json.dumps(s3(text[:1024])))]},
    "sns": sns,
    "kinesis": lambda text: {"Records": [kinesis("1", text), kinesis("2")]},
    "kafka key": lambda text: {**kafka({}), "records": {text: [{"offset": 1}]}},
    "api": http_request,
    "direct": lambda text: {"run_id": text, "shard": 1, "part": text, "generation": 0, "offset": 0, "length": 0},
    "source": lambda text: {"Records": [{"eventSource": text}]},
    "many keys": lambda text: {"Records": [{text[n : n + 20]: n for n in range(1_000)}]},
    "many messages": lambda text: {"Records": [sqs(str(n), text[:1_000]) for n in range(200)]},
}


@sized(len(TEXTS) // 2, len(TEXTS))
@pytest.mark.parametrize("carrier", CARRIERS)
def test_large_and_deep_texts_take_proportional_memory(carrier: str, examples: int) -> None:
    for text in list(TEXTS.values())[-examples:]:
        for bits in (0, 255):
            check("large and deep texts", CARRIERS[carrier](text), bits, trace=True)
