"""Watches a run until it has ended, with checks, progress and warnings; then fills its local output."""

from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice

from sparklet.app.explain import pattern_of
from sparklet.app.local_files import fill_output, with_local_paths
from sparklet.app.reporter import Reporter, count_text, duration_text
from sparklet.app.stack import OpenStack
from sparklet.app.state_machines import MachineWatch
from sparklet.errors import SparkletError
from sparklet.model import OF_SPLIT, Counts, Run, ShardState
from sparklet.ports import Clock
from sparklet.runs.checker import check
from sparklet.runs.summary import Summary, summarize

LINE_EVERY_S = 5.0
WINDOW_S = 60.0  # the pace and the estimated end follow from the last minute
POLL_S = 1.0
SHARDS_A_SECOND = 10_000  # so many open shards lengthen the polling interval by a second, since a check reads them all
MAX_POLL_S = 15.0
OVERLAP_S = 5.0  # a search for failed attempts begins so long before the end of the last one, since the index can lag
MAX_READ = 100  # shards of one state that a search for failed attempts reads
STATES_READ = (ShardState.FAILED, ShardState.PENDING, ShardState.RUNNING)
LEDGER_PATIENCE_S = 60.0  # a watch tolerates a ledger or queue that does not respond for this long


class Lines:
    """Shows the progress of a run in plain lines."""

    def __init__(self, reporter: Reporter, run_id: str, clock: Clock) -> None:
        self._reporter, self._run_id, self._clock = reporter, run_id, clock
        self._began_s = clock.now_s()
        self._ended: deque[tuple[float, int]] = deque()  # for times of the last minute: how many shards had ended
        self._line_s = float("-inf")  # when the last line was written
        self._last_line = ""

    def show(self, run: Run, counts: Counts) -> None:
        """Report a line if it differs from the last one, at most every five seconds, and when all shards have ended."""
        self.add(counts)
        line, now_s = self.line(run, counts), self._clock.now_s()
        if line != self._last_line and (now_s - self._line_s >= LINE_EVERY_S or (run.sealed and counts.open == 0)):
            self._reporter.say(f"{line} · {self.pace(counts)}")
            self._last_line, self._line_s = line, now_s

    def warn(self, text: str) -> None:
        """Report a warning; the watch continues."""
        self._reporter.warn(text)

    def add(self, counts: Counts) -> None:
        """Note how many shards have ended so far."""
        now_s = self._clock.now_s()
        self._ended.append((now_s, counts.succeeded + counts.failed))
        while self._ended[0][0] < now_s - WINDOW_S:
            self._ended.popleft()

    def line(self, run: Run, counts: Counts) -> str:
        """Return how many shards are in each state, and whether the run is being planned or cancelled."""
        total = f"{counts.total}+ shards" if run.shard_count is None else count_text(run.shard_count, "shard")
        states = (
            f"{counts.succeeded} succeeded, {counts.running} running, {counts.pending} pending, {counts.failed} failed"
        )
        stage = "" if run.sealed else ", planning …"
        if run.cancelled_s is not None and not run.state.ended:
            stage = ", being cancelled …"
        return f"{self._run_id}: {states} of {total}{stage}"

    def pace(self, counts: Counts) -> str:
        """Return the pace and the estimated end, both from the last minute, and the time since the display began."""
        (first_s, first_count), (last_s, last_count) = self._ended[0], self._ended[-1]
        per_s = (last_count - first_count) / (last_s - first_s) if last_s > first_s else 0.0
        rate = f"{per_s * 60:.0f} shards/min · " if per_s else ""
        end = f"about {duration_text(counts.open / per_s)} left · " if per_s and counts.open else ""
        return f"{rate}{end}{duration_text(last_s - self._began_s)}"


@dataclass
class FailureWatch:
    """Reports each cause of failing attempts once."""

    stack: OpenStack
    _since_s: float = 0.0
    _reported: set[tuple[str, str]] = field(default_factory=set)

    def reports(self, run: Run) -> Iterator[str]:
        """Return new causes since the last call; none if the run has ended, since its result shows all causes."""
        since_s, self._since_s = self._since_s, self.stack.deployment.clock.now_s() - OVERLAP_S
        for state in () if run.state.ended else STATES_READ:
            for record in islice(self.stack.deployment.ledger.shards.recent(run.run_id, state, since_s), MAX_READ):
                failed_attempts = 0  # attempts of an earlier generation do not count
                if record.generation == run.generation:
                    failed_attempts = record.attempts - (1 if state is ShardState.RUNNING else 0)
                cause = record.error_class, pattern_of(record.error_message)
                has_failed = failed_attempts > 0 or record.part.startswith(OF_SPLIT)
                if has_failed and record.error_class and cause not in self._reported:
                    self._reported.add(cause)
                    if failed_attempts > 0:
                        follows = "no attempt follows" if state is ShardState.FAILED else "another attempt follows"
                        event = f"attempt {failed_attempts} of shard {record.number} has failed, {follows}"
                    else:
                        event = f"shard {record.number} was split off a shard that failed"
                    error = f"{record.error_class}: {record.error_message}"
                    yield f"{event}: {with_local_paths(self.stack, run.run_id, error)}"


def watch(stack: OpenStack, run_id: str, display_context: AbstractContextManager[Lines], reporter: Reporter) -> Summary:
    """Check a run and show it until it has ended, then fill its local output; return its summary."""
    silent_since_s: float | None = None
    machine, failures = MachineWatch(stack), FailureWatch(stack)
    with display_context as display:
        while True:
            try:
                report = check(stack.deployment, run_id)
                display.show(report.run, report.counts)
                failure_texts = list(failures.reports(report.run))
                silent_since_s = None
            except SparkletError as error:
                stack.check()
                now_s = stack.deployment.clock.now_s()
                # The stack works without this command, so the watch goes on if ledger or queue are silent for a while.
                silent_since_s = silent_since_s or now_s
                if not error.retryable or now_s - silent_since_s > LEDGER_PATIENCE_S:
                    raise
                stack.deployment.clock.sleep(POLL_S)
                continue
            for text in (*failure_texts, *machine.reports(report.run)):
                display.warn(text)
            if report.run.state.ended:
                break
            stack.deployment.clock.sleep(poll_s(report.counts))
    summary = report.summary or summarize(stack.deployment, report.run)
    fill_output(stack, report.run, reporter)
    return summary


def poll_s(counts: Counts) -> float:
    """Return the polling interval in seconds: longer with many open shards, since each check reads all of them."""
    return min(MAX_POLL_S, POLL_S + counts.open / SHARDS_A_SECOND)
