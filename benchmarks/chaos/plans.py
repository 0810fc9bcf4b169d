"""What goes wrong in a trial: chosen by its seed before anything runs, so that a trial can be repeated."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

FORMATS = ("delta", "iceberg", "hudi")
WAYS = ("staged", "direct", "plain")

# One block of trials has so many of each kind; 1,000 kills and 200 faults of each other kind are 20 blocks a format.
KINDS = {
    "kill at a step": 8,  # SIGKILL before or after a named step of the protocol, of the worker of a shard
    "kill at a request": 4,  # the same at any request
    "kill at a time": 4,
    "kill the committer": 6,  # at any of its steps
    "kill the checker": 2,
    "twice at once": 2,  # a message is delivered twice
    "twice, later": 2,  # again after its shard has succeeded
    "zombie": 4,  # stopped at a step, waked after its lease is over
    "zombie committer": 3,
    "reset": 2,
    "drop": 2,
    "delay": 2,
    "error": 2,
}
NETWORK = ("reset", "drop", "delay", "error")
COMMITTERS = ("kill the committer", "kill the checker", "zombie committer")  # there is neither without a commit run
SHARDS_OF = {"staged": 3, "direct": 3, "plain": 3}


@dataclass(frozen=True)
class Plan:
    """One trial."""

    seed: int
    format: str
    way: str
    kind: str
    shards: int
    after_effect: bool  # whether it strikes after a request's effect
    nth: float  # at which of so many requests, or steps: a share
    delay_s: float  # of a kill at a time; how long a zombie sleeps on
    wake: str  # when a zombie wakes: claimed | succeeded | ended
    at: tuple[str, int] | None = None  # a step, and which of its occurrences, in place of ``nth``

    @property
    def name(self) -> str:
        """The trial's run."""
        return f"chaos-{self.seed}"

    @property
    def dice(self) -> random.Random:
        """For what is decided on the way."""
        return random.Random(f"{self.seed}/dice")


def plan(seed: int, formats: tuple[str, ...] = FORMATS, ways: tuple[str, ...] = WAYS) -> Plan:
    """The trial of a seed: blocks of all combinations, each shuffled in its own way."""
    block = list(_block(formats, ways))
    number, place = divmod(seed, len(block))
    format_, way, kind = random.Random(number).sample(block, len(block))[place]
    dice = random.Random(seed)
    return Plan(
        seed=seed,
        format=format_,
        way=way,
        kind=kind,
        shards=SHARDS_OF[way],
        after_effect=dice.random() < 0.5,
        nth=dice.random(),
        delay_s=dice.uniform(0, 6),
        wake=dice.choice(("claimed", "succeeded", "ended")),
    )


def _block(formats: tuple[str, ...], ways: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    for format_ in formats:
        for way in ways:
            for kind, times in KINDS.items():
                if way == "staged" or kind not in COMMITTERS:
                    yield from [(format_, way, kind)] * (times if way != "plain" else max(1, times // 4))
