"""Finds faults of a state machine that asl-validator does not find; every finding names its state.

asl-validator (tests/deploy) checks syntax, transitions, paths. It lets pass a misspelt InputType, an inline Map with a
reader and States.ALL before other catchers; and it cannot know what this project asks of every machine.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

INPUT_TYPES = {"CSV", "JSON", "JSONL", "MANIFEST", "PARQUET"}
RETRIED = {"IntervalSeconds", "MaxAttempts", "BackoffRate", "MaxDelaySeconds", "JitterStrategy"}
OF_DISTRIBUTED = ("ItemReader", "ItemBatcher", "ResultWriter", "ToleratedFailureCount", "ToleratedFailurePercentage")
OWN_SERVICE = re.compile(r"arn:(aws|\$\{Partition\}):states:::")


def findings(machine: Mapping[str, Any]) -> list[str]:
    """Return all faults of a state machine; an empty list if there are none."""
    of_states = (finding for name, state in every_state(machine) for finding in _of_state(name, state))
    return [*of_states, *_of_arns(machine)]


def placeholders(machine: Mapping[str, Any]) -> set[str]:
    """The names of the placeholders for which the template must substitute values."""
    return set(re.findall(r"\$\{(\w+)\}", json.dumps(machine)))


def every_state(machine: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All states with their names, including those within a Map or Parallel state."""
    for name, state in machine["States"].items():
        yield name, state
        for inner in (*([state["ItemProcessor"]] if "ItemProcessor" in state else []), *state.get("Branches", [])):
            yield from every_state(inner)


def _of_state(name: str, state: Mapping[str, Any]) -> Iterator[str]:
    if not state.get("Comment"):
        yield f"{name}: has no comment"
    if state["Type"] in ("Task", "Map", "Parallel"):
        yield from _of_errors(name, state)
    if state["Type"] == "Map":
        yield from _of_map(name, state)
    if state["Type"] == "Task" and "TimeoutSeconds" not in state:
        yield f"{name}: waits for a lost answer for ever"


def _of_errors(name: str, state: Mapping[str, Any]) -> Iterator[str]:
    if state["Type"] == "Task" and not any(retrier.get("MaxAttempts") != 0 for retrier in state.get("Retry", [])):
        yield f"{name}: retries nothing"
    for retrier in state.get("Retry", []):
        if retrier.get("MaxAttempts") != 0 and not retrier.keys() >= RETRIED:
            yield f"{name}: a retrier lacks {', '.join(sorted(RETRIED - retrier.keys()))}"
        elif retrier.get("MaxAttempts") != 0 and retrier["BackoffRate"] != 1 and retrier["JitterStrategy"] != "FULL":
            yield f"{name}: a retrier has no jitter"
    if not any("States.ALL" in catcher["ErrorEquals"] for catcher in state.get("Catch", [])):
        yield f"{name}: an error is not caught"
    for rules in (state.get("Retry", []), state.get("Catch", [])):
        for number, rule in enumerate(rules, start=1):
            if "States.ALL" in rule["ErrorEquals"] and (len(rule["ErrorEquals"]) > 1 or number < len(rules)):
                yield f"{name}: States.ALL must stand alone and last"


def _of_map(name: str, state: Mapping[str, Any]) -> Iterator[str]:
    config = state["ItemProcessor"].get("ProcessorConfig", {})
    if config.get("Mode") != "DISTRIBUTED":
        for field in OF_DISTRIBUTED:
            if field in state or f"{field}Path" in state:
                yield f"{name}: an inline Map has no {field}"
    elif "ExecutionType" not in config:
        yield f"{name}: does not say what its children are"
    reader = state.get("ItemReader", {}).get("ReaderConfig", {})
    if (kind := reader.get("InputType")) is not None and kind not in INPUT_TYPES:
        yield f"{name}: no InputType is {kind}"


def _of_arns(machine: Mapping[str, Any]) -> Iterator[str]:
    for text in re.findall(r'"([^"]*arn:[^"]*)"', json.dumps(machine)):
        if not OWN_SERVICE.match(text):
            yield f"{text} is written into the file"
