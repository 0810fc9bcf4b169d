"""A run's progress: a live display on a terminal, plain lines elsewhere."""

from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sparklet.cli.console import Screen, duration_text
from sparklet.model import Counts, Run
from sparklet.ports import Clock

PLAIN_EVERY_S = 5.0
WINDOW_S = 60.0  # throughput is that of the last minute


class Throughput:
    """Shards that end in a second, over the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now_s: float, ended: int) -> None:
        """Note how many shards have ended by now."""
        self._seen.append((now_s, ended))
        while len(self._seen) > 2 and now_s - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()

    @property
    def per_s(self) -> float:
        """Shards a second; 0 while it is unknown."""
        if len(self._seen) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def remaining_s(self, open_shards: int) -> float | None:
        """The estimated time to the end; None while it is unknown."""
        return open_shards / self.per_s if self.per_s > 0 else None


class RunDisplay:
    """Shows a run's counts, from its first shard to its last."""

    def __init__(self, screen: Screen, run_id: str, clock: Clock) -> None:
        self._screen = screen
        self._run_id = run_id
        self._clock = clock
        self._live = Live(console=screen.side, refresh_per_second=4) if screen.side.is_terminal else None
        self._throughput = Throughput()
        self._started_s = clock.now_s()
        self._line_s = float("-inf")  # when the last line was printed
        self._last_line = ""
        self._details: RenderableType | None = None

    @property
    def live(self) -> bool:
        """Whether the display is a terminal's, which changes in place."""
        return self._live is not None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, run: Run, counts: Counts) -> None:
        """Show the state as it is now."""
        now_s = self._clock.now_s()
        ended = counts.succeeded + counts.failed
        self._throughput.add(now_s, ended)
        if self._live:
            self._live.update(self._picture(run, counts))
            return
        line = self._line(run, counts)
        if line != self._last_line and (now_s - self._line_s >= PLAIN_EVERY_S or (run.sealed and counts.open == 0)):
            self._screen.say(f"{line}{self._estimate(counts)}")
            self._last_line, self._line_s = line, now_s

    def detail(self, details: RenderableType) -> None:
        """Show this below the counts from now on; on a terminal only."""
        self._details = details

    def warn(self, text: str) -> None:
        """A warning that stays above the picture."""
        if self._live:
            self._live.console.print(f"[yellow]warning:[/yellow] {escape(text)}")
        else:
            self._screen.warn(text)

    def _line(self, run: Run, counts: Counts) -> str:
        total = run.shard_count if run.shard_count is not None else f"{counts.total}+"
        states = (
            f"{counts.succeeded} succeeded, {counts.running} running, {counts.pending} pending, {counts.failed} failed"
        )
        return f"{self._run_id}: {states} of {total} shards{_stage(run, ', ')}"

    def _estimate(self, counts: Counts) -> str:
        remaining_s = self._throughput.remaining_s(counts.open)
        rate = f" · {self._throughput.per_s * 60:.0f} shards/min" if self._throughput.per_s else ""
        end = f" · about {duration_text(remaining_s)} left" if remaining_s and counts.open else ""
        return f"{rate}{end} · {duration_text(self._clock.now_s() - self._started_s)}"

    def _picture(self, run: Run, counts: Counts) -> Group:
        states = Table.grid(padding=(0, 2))
        states.add_row(
            Text(f"{counts.succeeded} succeeded", style="green"),
            Text(f"{counts.running} running", style="cyan"),
            Text(f"{counts.pending} pending", style="dim"),
            Text(f"{counts.failed} failed", style="red" if counts.failed else "dim"),
            Text(_stage(run), style="yellow"),
        )
        bar = Table.grid(padding=(0, 1))
        ended = counts.succeeded + counts.failed
        total = run.shard_count or max(1, counts.total)
        bar.add_row(ProgressBar(total=total, completed=ended, width=40), Text(f"{ended}/{total}"))
        estimate = Text(self._estimate(counts).removeprefix(" · "), style="dim")
        details = [Text(""), self._details] if self._details and counts.open else []
        return Group(Text(self._run_id, style="bold"), bar, states, estimate, *details)


def _stage(run: Run, before: str = "") -> str:
    """What goes on beside the work, if anything does."""
    if run.cancelled_s is not None and not run.state.ended:
        return f"{before}being cancelled …"
    return "" if run.sealed else f"{before}planning …"
