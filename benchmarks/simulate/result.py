"""What a simulation came to, and its state at some moments."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Sample:
    """The state at one moment."""

    at_s: float
    sent: int
    ended: int
    waiting: int  # visible
    in_flight: int
    running: int
    slots: int
    throttles: int
    retries: int
    dead: int


@dataclass(slots=True)
class Result:
    """What a simulation came to."""

    shards: int
    states: dict[str, int] = field(default_factory=dict)
    end_s: float = 0.0  # of the last shard that ended
    last_success_s: float = 0.0
    dead: int = 0  # dead letters
    dead_though_done: int = 0  # of these: shards that ran to their end all the same
    receives: int = 0
    attempts: int = 0
    retries: int = 0
    doubled: int = 0  # shards done more than once
    throttles: int = 0
    cold_starts: int = 0
    billed_s: float = 0.0
    running_s: float = 0.0  # the integral of what runs
    in_system_s: float = 0.0  # the sum of the times from sent to ended
    ledger_wait_s: float = 0.0  # of all claims and ends behind a full partition
    peak: int = 0
    peak_s: float = 0.0  # when it was reached
    open_check_s: float = 0.0  # open shards, summed over the checks
    ended_within: dict[int, int] = field(default_factory=dict)  # shards, by seconds: a minute, an hour, a day
    samples: list[Sample] = field(default_factory=list)

    @property
    def lost(self) -> int:
        """Shards that never ended: dead letters that nobody sends again, and what is open at the time limit."""
        return self.shards - self.states.get("succeeded", 0) - self.states.get("failed", 0)
