"""Events to try: one of each source, changed in a few places; environments, bent in the same way.

A change is three small numbers (where, how, what), so that Hypothesis finds and shrinks them quickly and two
inputs are the same if their numbers are.
"""

import json
from typing import Any

from hypothesis import strategies as st

from sparklet.settings import NAMES
from tests.unit.events.samples import every_source, s3, s3_test_event, sns_envelope, sqs

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # AWS's own example of one
ASKED = {"Records": [sqs("a", '{"sparklet": {}}') | {"messageAttributes": {"sparklet-task": {"stringValue": "t-1"}}}]}
SAMPLES = {name: json.dumps(event) for name, event in {**every_source(), "sqs task": ASKED}.items()}
MAX_CHANGES = 6
Change = tuple[int, int, int]


def deep(levels: int) -> Any:
    """A value nested so deep."""
    value: Any = SECRET
    for _ in range(levels):
        value = [value]
    return value


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**30, 1.5, 1e308, float("nan"), float("inf")),
    *("", " ", "0", "-1", "²", "9" * 5_000, "\ud800", "\x00", "é\u0301", "x" * 5_000, SECRET, f'{{"a": "{SECRET}"}}'),
    *(list, dict, lambda: [[]], lambda: [{}], lambda: {"": ""}, lambda: [None] * 200),  # made anew: they are changed
    *(lambda: {str(n): n for n in range(200)}, lambda: deep(50), lambda: deep(2_000)),
    *("[" * 10_000, '{"s3":' * 3_000, f'["s3", "{SECRET}"', '"s3"', '{"a": 1, "a": 2}', "s3:TestEvent"),
    *("Records", "aws:sqs", "aws:kinesis", "aws:dynamodb", "aws:s3", "aws:sns", "aws:kafka", "SelfManagedKafka"),
    *("aws.s3", "Notification", "Object Deleted", "ObjectRemoved:Delete", "aws:unheard-of", "application/json"),
    *(json.dumps(s3("a b+c%.csv")), json.dumps(s3_test_event()), sns_envelope(json.dumps(s3()))),
    lambda: {"run_id": SECRET, "shard": 1},
    lambda: {"run_id": "r-1", "shard": 1, "generation": 0, "part": "p", "offset": 0, "length": 9},
    json.dumps({"run_id": "r", "shard": SECRET, "generation": 0, "part": f"/{SECRET}", "offset": 0, "length": 9}),
]
HOW = ("replace", "remove", "rename", "repeat", "wrap", "as text", "graft")


def plans(most: int = MAX_CHANGES) -> st.SearchStrategy[list[Change]]:
    """What is changed."""
    place, what = st.integers(0, 400), st.integers(0, len(VALUES) - 1)
    return st.lists(st.tuples(place, st.integers(0, len(HOW) - 1), what), max_size=most)


def changed(sample: str, plan: list[Change]) -> Any:
    """The sample with its changes, one after the other."""
    holder = [json.loads(SAMPLES[sample])]
    for place, how, what in plan:
        found = _places(holder)
        container, key = found[place % len(found)]
        value = VALUES[what]() if callable(VALUES[what]) else VALUES[what]
        _change(container, key, HOW[how], value, what)
    return holder[0]


def _places(holder: list[Any]) -> list[tuple[Any, Any]]:
    """Every value within, as its container and its key there; breadth first, at most 400."""
    places: list[tuple[Any, Any]] = [(holder, 0)]
    for container, key in places:
        value = container[key]
        inner = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        places += [(value, k) for k in inner]
        if len(places) > 400:
            break
    return places[:400]


def _change(container: Any, key: Any, how: str, value: Any, what: int) -> None:
    if how == "replace" or (isinstance(container, list) and len(container) == 1 and how in ("remove", "rename")):
        container[key] = value
    elif how == "remove":
        del container[key]
    elif how == "rename" and isinstance(container, dict):
        container[value[:50] if isinstance(value, str) else f"new-{len(container)}"] = container.pop(key)
    elif how == "repeat" and isinstance(container, list):
        container.append(container[key])
    elif how == "as text":
        try:
            container[key] = json.dumps(container[key])
        except RecursionError:
            container[key] = value
    elif how == "graft":
        container[key] = json.loads(SAMPLES[list(SAMPLES)[what % len(SAMPLES)]])
    else:
        container[key] = [container[key], value]


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON value, with the names that events have."""
    names = st.sampled_from(["Records", "records", "eventSource", "body", "window", "requestContext", "http", "source"])
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["aws:sqs", "aws:kafka"]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(), inner, max_size=5),
        max_leaves=25,
    )


ENV_NAMES = [
    *sorted(NAMES),
    *("SPARKLET_RUNER", "SPARKLET_", "SPARKLET_ünicode", "SPARKLET_HEAP", "SCRIPT_LOCATION", "SCRIPT_BUCKET"),
    *("SPARK_SCRIPT", "SPARK_HOME", "JAVA_HOME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_ENDPOINT_URL", "AWS_REGION"),
    *("output_path", "PATH", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DB_PASSWORD"),
]
ENV_VALUES = [
    *("", "0", "1", "-1", "1.5", "nan", "inf", "1e999", "9" * 5_000, "warm", "submit", "raise", "report", "true", "²"),
    *(
        SECRET,
        f"x{SECRET}",
        SECRET[:20],
        "hunter2",
        "hunter2,",
        "s3://b/x/",
        "s3://b",
        "s3://b/,/etc",
        "'",
        '"a b',
        "{}",
    ),
    *(
        "[" * 10_000,
        '{"spark.x": 1}',
        f'{{"spark.x": "{SECRET}"}}',
        f'{{"{SECRET}": 1}}',
        f"['{SECRET}'",
        "\udc80",
        ",",
    ),
    "3008",
]


def environments() -> st.SearchStrategy[dict[str, str]]:
    """Environments; the password is always there."""
    values = st.sampled_from(ENV_VALUES) | st.text(max_size=30) | st.integers().map(str) | st.floats().map(str)
    told = st.dictionaries(st.sampled_from(ENV_NAMES), values, max_size=6)
    return told.map(lambda env: {**env, "AWS_SECRET_ACCESS_KEY": SECRET, "MY_PASSWORD": "hunter2"})
