"""Why a run's shards failed: grouped by cause, each with an example, the likely reason and what to type.

Two failures have one cause if their class is the same and their messages differ only in what names a thing: numbers,
addresses, file names, identifiers. The ledger is read once; memory does not grow with the number of shards.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sparklet.errors import ObjectStoreError, PlanError
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.plan_parts import planned_shard
from sparklet.fanout.reporting.causes import Advice, advice
from sparklet.model import Run, ShardRecord, ShardState

MOST_GROUPS = 200  # what comes after so many different causes is counted together
MOST_RANGES = 12  # of shard numbers, as far as a person reads or types them
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
        elif len(self.ranges) < MOST_RANGES:
            self.ranges.append([number, number])
        else:
            self.whole = False

    def text(self) -> str:
        """As ``--shards`` takes them: ``3,17,20-25``."""
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ranges)


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed shards with one cause."""

    error_class: str
    pattern: str  # of the message: what differs from shard to shard is <n>, <file>, <address>, …
    count: int
    shards: Numbers
    example: ShardRecord
    example_object: str  # the first input of the example; "" if its plan part cannot be read
    advice: Advice
    unrun: int  # messages of these shards that came back as dead letters though no attempt had come of them
    redrive: tuple[str, ...]  # options of `sparklet redrive RUN` that choose exactly these shards

    @property
    def line(self) -> int | None:
        """The script's line, where the message names one."""
        match = _PLACE.search(self.example.error_message)
        return int(match[1] or match[2]) if match else None


@dataclass(slots=True)
class _Tally:
    error_class: str
    pattern: str
    example: ShardRecord
    count: int = 0
    unrun: int = 0
    shards: Numbers = field(default_factory=Numbers)


def explain(at: Deployment, run: Run) -> tuple[FailureGroup, ...]:
    """The causes of a run's failures as they stand now, the most frequent first."""
    tallies: dict[tuple[str, str], _Tally] = {}
    for record in at.ledger.shards(run.run_id, ShardState.FAILED):
        key = record.error_class, pattern_of(record.error_message)
        if key not in tallies and len(tallies) >= MOST_GROUPS:
            key = OTHER, ""
        tally = tallies.setdefault(key, _Tally(*key, record))
        tally.count += 1
        tally.unrun += record.unrun
        tally.shards.add(record.number)
    found = sorted(tallies.values(), key=lambda tally: (-tally.count, tally.error_class, tally.pattern))
    return tuple(_group(at, run, tally, found) for tally in found)


def pattern_of(message: str) -> str:
    """A message without what names one thing among many."""
    places = [match[0] for match in _PLACE.finditer(message)]
    rest = _PLACE.split(message)[:: 1 + _PLACE.groups]
    for expression, placeholder in _NAMES:
        rest = [expression.sub(placeholder, piece) for piece in rest]
    return "".join(piece for pair in zip(rest, [*places, ""], strict=True) for piece in pair)


def matches_cause(record: ShardRecord, cause: str) -> bool:
    """Whether ``--cause`` means this failure: its class, with or without package, or words of its message."""
    said = f"{record.error_class}: {record.error_message}"
    return cause in (record.error_class, record.error_class.rpartition(".")[2]) or cause.casefold() in said.casefold()


def _group(at: Deployment, run: Run, tally: _Tally, all_groups: Sequence[_Tally]) -> FailureGroup:
    record = tally.example
    found = advice(record.error_class, record.error_message)
    return FailureGroup(
        error_class=tally.error_class,
        pattern=tally.pattern,
        count=tally.count,
        shards=tally.shards,
        example=record,
        example_object=_first_object(at, record),
        advice=Advice(_named(found.reason, run, record), _named(found.remedy, run, record)),
        unrun=tally.unrun,
        redrive=_options(tally, all_groups),
    )


def _named(text: str, run: Run, record: ShardRecord) -> str:
    """An advice with this run and shard in it."""
    return re.sub(r"\bSHARD\b", str(record.number), re.sub(r"\bRUN\b", run.run_id, text))


def _first_object(at: Deployment, record: ShardRecord) -> str:
    try:
        return planned_shard(at, record).objects[0].name
    except (ObjectStoreError, PlanError, IndexError):
        return ""


def _options(tally: _Tally, all_groups: Sequence[_Tally]) -> tuple[str, ...]:
    """What chooses a group and no other: nothing if it is alone, its class, a piece of its message, its numbers."""
    others = [group for group in all_groups if group is not tally]
    if not others:
        return ()
    if tally.error_class == OTHER:
        return ("--shards", tally.shards.text())
    for cause in _candidates(tally):
        if not any(_could_match(group, cause) for group in others):
            return ("--cause", cause)
    return ("--shards", tally.shards.text())


def _candidates(tally: _Tally) -> Iterator[str]:
    """What names the cause, the shortest first: its class, then the fixed pieces of its message."""
    if tally.error_class:
        yield tally.error_class
    pieces = [piece.strip(" '\":,;()[]") for piece in _PLACEHOLDER.split(tally.pattern)]
    yield from sorted((piece for piece in pieces if len(piece) >= 4), key=len, reverse=True)


def _could_match(group: _Tally, cause: str) -> bool:
    """Whether ``--cause`` would choose shards of this group too; a group of many causes could always be."""
    return (
        group.error_class == OTHER
        or matches_cause(group.example, cause)
        or cause.casefold() in group.pattern.casefold()
    )
