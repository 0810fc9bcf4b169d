"""What goes wrong in a trial: chosen by its seed before anything runs, so that a trial can be repeated."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FORMATS = ("delta", "iceberg", "hudi")
WAYS = ("staged", "direct", "plain")
SHARDS = 3

# A block of trials has so many of each kind for each format and way: 1,000 kills and 200 faults of each other kind are
# so many blocks.
FULL_SIZE_BLOCKS = 2
KINDS = {
    "kill at a step": 5,  # SIGKILL before or after a named step of the protocol
    "kill at a request": 2,  # the same at any request
    "kill at a time": 2,
    "kill the committer": 6,  # at any of its steps
    "kill the checker": 3,
    "twice at once": 3,  # each message is delivered twice
    "twice, later": 3,  # again after its shard has succeeded
    "zombie": 3,  # stopped at a step, waked after its lease is over
    "zombie committer": 6,
    # Another run appends to the table meanwhile. Each repeats a fault that other committers have had open: Iceberg's
    # Kafka Connect sink, issues 17551, 16282 and 17637.
    "late committer": 3,  # stopped until the other run has committed and old snapshots are expired
    "recovered committer": 3,  # killed after a step has had its effect; the other run commits before the next attempt
    "two committers": 3,  # stopped until another attempt has claimed, so that both commit at once with the other run
    "foreign writer": 3,  # delta-rs or PyIceberg appends to the table meanwhile, and nobody is struck
    "kill an engine's worker": 3,  # at a step; every shard is an engine's
    "zombie in an engine": 2,
    "escalation": 3,  # functions run out of memory; the shards move to an engine, whose workers are killed at a step
    "isolate": 3,  # shards of many files with bad ones; workers and checkers are killed while shards are split
    "an output each": 3,  # for each of many files; half of the scripts mix them, so that their shards are split
    "replaced": 3,  # the same; then shards are done again, then a run overwrites them, or takes what has changed
    "reset": 1,
    "drop": 1,
    "delay": 1,
    "error": 1,
}
NETWORK = ("reset", "drop", "delay", "error")
RIVALLED = ("late committer", "recovered committer", "two committers")
STOPPED = ("zombie", "zombie committer", "late committer", "two committers", "zombie in an engine")
ESCALATED, ISOLATED, FOREIGN = "escalation", "isolate", "foreign writer"
PER_INPUT, REPLACED = "an output each", "replaced"
OF_OUTPUTS = (PER_INPUT, REPLACED)
OF_FILES = (ISOLATED, *OF_OUTPUTS)  # shards of many files, each with a fate of its own
KILLS = (*(kind for kind in KINDS if kind.startswith("kill")), "recovered committer", ESCALATED, *OF_FILES)
ENGINES = ("kill an engine's worker", "zombie in an engine", ESCALATED)
COMMITTERS = ("kill the committer", "kill the checker", "zombie committer", *RIVALLED)  # none without a commit run
STAGED = (*COMMITTERS, *ENGINES, *OF_FILES)

# Of whom workers are struck, in each trial so many as its plan says, one after the other.
STRUCK: Mapping[str, tuple[str, ...]] = {
    "kill at a step": ("shard", "commit"),
    "kill at a request": ("shard", "commit"),
    "kill at a time": ("shard", "commit"),
    "kill the committer": ("commit",),
    "kill the checker": ("checker",),
    "zombie": ("shard",),
    "zombie committer": ("commit",),
    **dict.fromkeys(RIVALLED, ("commit",)),
    **dict.fromkeys(ENGINES, ("shard",)),
    **dict.fromkeys((ISOLATED, PER_INPUT), ("shard", "checker")),
    REPLACED: ("shard",),
}
STRIKES = 3


@dataclass(frozen=True)
class Plan:
    """One trial."""

    seed: int
    format: str
    way: str
    kind: str
    shards: int = SHARDS
    commits: int = 1  # plain: of each shard, each with some of its rows
    strikes: int = STRIKES  # at each shard, the commit run, the checker
    at: tuple[str, int] | None = None  # strike at this step and at which of its occurrences

    @property
    def name(self) -> str:
        """The trial's run."""
        return f"chaos-{self.seed}"

    @property
    def rival(self) -> str:
        """The other run into the same table, which is not struck."""
        return f"{self.name}-rival"

    def dice(self, about: str) -> random.Random:
        """For one thing that is decided on the way."""
        return random.Random(f"{self.seed}/{about}")


def plan(seed: int, formats: tuple[str, ...] = FORMATS, ways: tuple[str, ...] = WAYS) -> Plan:
    """The trial of a seed: blocks of all combinations, each shuffled in its own way, formats and ways spread evenly."""
    block = list(_block(formats, ways))
    number, place = divmod(seed, len(block))
    shuffled = random.Random(number).sample(block, len(block))
    sizes, turns = Counter(each[:2] for each in block), Counter[tuple[str, str]]()
    places = []
    for each in shuffled:
        turns[each[:2]] += 1
        places.append((turns[each[:2]] - 0.5) / sizes[each[:2]])
    return Plan(seed, *shuffled[sorted(range(len(block)), key=places.__getitem__)[place]])


def seeds(blocks: int) -> range:
    """Those of the first blocks."""
    return range(blocks * len(list(_block(FORMATS, WAYS))))


def _block(formats: tuple[str, ...], ways: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for format_ in formats:
        for way in ways:
            for kind, times in KINDS.items():
                if kind == FOREIGN and format_ == "hudi":
                    continue  # which no other library writes
                of_baseline = kind not in NETWORK or ways == ("plain",)  # alone it is what is tried
                if way == "staged" or (kind not in STAGED and (way == "direct" or of_baseline)):
                    yield from [(format_, way, kind)] * (times if way != "plain" else 1)
