"""Why a run's shards failed: grouped by cause, each with an example, the likely reason and what to type.

Two failures have one cause if their class is the same and their messages differ only in what names a thing: numbers,
addresses, file names, identifiers. Memory does not grow with the number of shards.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sparklet.errors import ObjectStoreError, PlanError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.plan_parts import planned_shard
from sparklet.fanout.reporting.causes import Advice, advice
from sparklet.model import Run, ShardRecord

MAX_GROUPS = 200  # what comes after so many different causes is counted together
MAX_RANGES = 12  # of shard numbers, as far as a person reads or types them
OTHER = "(other causes)"

_NAMES = (
    (re.compile(r"\b(?:s3[an]?|file|hdfs|https?)://[^\s'\",;)\]]+"), "<address>"),
    (re.compile(r"(?<![\w.])/(?:[\w.@%+=~-]+/)+[\w.@%+=~-]*"), "<path>"),
    (
        re.compile(r"\b[\w@%+=-]+(?:\.[\w@%+=-]+)*\.(?:csv|jsonl?|ndjson|parquet|avro|orc|txt|gz|bz2|zst|xml)\b"),
        "<file>",
    ),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"(?<![\w<])[-+]?\d[\d.,:]*\d|(?<![\w<])\d"), "<n>"),
)
_PLACE = re.compile(r"\bline (\d+) of [\w.-]+\.py\b|\b[\w.-]+\.py, line (\d+)")  # in a script: part of the cause
_PLACEHOLDER = re.compile(r"<(?:address|path|file|id|n)>")


@dataclass(slots=True)
class Numbers:
    """Shard numbers in ascending order, as ranges; only the first ones are kept."""

    ranges: list[list[int]] = field(default_factory=list)
    whole: bool = True  # whether none was left out

    def add(self, number: int) -> None:
        """Take one more."""
        if self.ranges and self.whole and self.ranges[-1][1] == number - 1:
            self.ranges[-1][1] = number
        elif len(self.ranges) < MAX_RANGES:
            self.ranges.append([number, number])
        else:
            self.whole = False

    def text(self) -> str:
        """As ``--shards`` takes them: ``3,17,20-25``."""
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)


@dataclass(slots=True)
class FailureGroup:
    """Failed shards with one cause."""

    error_class: str
    pattern: str  # of the message: what differs from shard to shard is <n>, <file>, <address>, …
    example: ShardRecord
    count: int = 0
    unrun: int = 0  # messages of these shards that came back as dead letters though no attempt had come of them
    shards: Numbers = field(default_factory=Numbers)
    example_object: str = ""  # the first input of the example; "" if its plan part cannot be read
    advice: Advice = field(default_factory=lambda: Advice("", ""))
    redrive: tuple[str, ...] = ()  # options of `sparklet redrive RUN` that choose exactly these shards

    @property
    def line(self) -> int | None:
        """The script's line, where the message names one."""
        match = _PLACE.search(self.example.error_message)
        return int(match[1] or match[2]) if match else None


@dataclass(slots=True)
class FailureTally:
    """Groups failed shards one by one."""

    groups: dict[tuple[str, str], FailureGroup] = field(default_factory=dict)

    def add(self, record: ShardRecord) -> None:
        """Count one failed shard."""
        key = record.error_class, pattern_of(record.error_message)
        if key not in self.groups and len(self.groups) >= MAX_GROUPS:
            key = OTHER, ""
        group = self.groups.setdefault(key, FailureGroup(*key, record))
        group.count += 1
        group.unrun += record.unrun
        group.shards.add(record.number)


def explain(at: Deployment, run: Run, failures: FailureTally) -> tuple[FailureGroup, ...]:
    """The causes of a run's failures, the most frequent first, each with what to do about it."""
    found = sorted(failures.groups.values(), key=lambda group: (-group.count, group.error_class, group.pattern))
    for group in found:
        advised = advice(group.example.error_class, group.example.error_message)
        names = {"RUN": run.run_id, "SHARD": str(group.example.number)}
        group.advice = Advice(_named(advised.reason, names), _named(advised.remedy, names))
        group.example_object = _first_object(at, group.example)
        group.redrive = _options(group, found)
    return tuple(found)


def pattern_of(message: str) -> str:
    """A message without what names one thing among many."""
    places = [match[0] for match in _PLACE.finditer(message)]
    rest = _PLACE.split(message)[:: 1 + _PLACE.groups]
    for expression, placeholder in _NAMES:
        rest = [expression.sub(placeholder, piece) for piece in rest]
    return "".join(piece for pair in zip(rest, [*places, ""], strict=True) for piece in pair)


def matches_cause(record: ShardRecord, cause: str) -> bool:
    """Whether ``--cause`` means this failure: its class, with or without package, or words of its message."""
    text = f"{record.error_class}: {record.error_message}"
    return cause in (record.error_class, record.error_class.rpartition(".")[2]) or cause.casefold() in text.casefold()


def _named(text: str, names: Mapping[str, str]) -> str:
    """An advice with this run and shard in it."""
    return re.sub(r"\b(?:RUN|SHARD)\b", lambda match: names[match[0]], text)


def _first_object(at: Deployment, record: ShardRecord) -> str:
    try:
        return planned_shard(at, record).objects[0].name
    except (ObjectStoreError, PlanError, IndexError):
        return ""


def _options(group: FailureGroup, all_groups: Sequence[FailureGroup]) -> tuple[str, ...]:
    """What chooses a group and no other: nothing if it is alone, its class, a piece of its message, its numbers."""
    others = [each for each in all_groups if each is not group]
    if not others:
        return ()
    for cause in () if group.error_class == OTHER else _candidates(group):
        if not any(_could_match(other, cause) for other in others):
            return ("--cause", cause)
    return ("--shards", group.shards.text())


def _candidates(group: FailureGroup) -> Iterator[str]:
    """What names the cause, the shortest first: its class, then the fixed pieces of its message."""
    if group.error_class:
        yield group.error_class
    pieces = [piece.strip(" '\":,;()[]") for piece in _PLACEHOLDER.split(group.pattern)]
    yield from sorted((piece for piece in pieces if len(piece) >= 4), key=len, reverse=True)


def _could_match(group: FailureGroup, cause: str) -> bool:
    """Whether ``--cause`` would choose shards of this group too; a group of many causes could always be."""
    return (
        group.error_class == OTHER
        or matches_cause(group.example, cause)
        or cause.casefold() in group.pattern.casefold()
    )
