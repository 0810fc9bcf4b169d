"""A run's progress: a live display on a terminal, plain lines elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress
from rich.table import Table
from rich.text import Text

from sparklet.cli.console import Screen, duration_text
from sparklet.model import Counts, Run
from sparklet.ports import Clock

PLAIN_EVERY_S = 5.0
WINDOW_S = 60.0  # the estimated end follows from the last minute


class RunDisplay:
    """Shows a run's counts, from its first shard to its last."""

    def __init__(self, screen: Screen, run_id: str, clock: Clock) -> None:
        self._screen = screen
        self._run_id = run_id
        self._clock = clock
        self._live = Live(console=screen.side, refresh_per_second=4) if screen.side.is_terminal else None
        columns = BarColumn(40), MofNCompleteColumn()
        self._bar = Progress(*columns, console=screen.side, get_time=clock.now_s, speed_estimate_period=WINDOW_S)
        self._bar.add_task("", total=None)
        (self._task,) = self._bar.tasks
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
        ended = counts.succeeded + counts.failed
        self._bar.update(self._task.id, completed=ended, total=run.shard_count or max(1, counts.total))
        if self._live:
            self._live.update(self._picture(run, counts))
            return
        line, now_s = self._line(run, counts), self._clock.now_s()
        if line != self._last_line and (now_s - self._line_s >= PLAIN_EVERY_S or (run.sealed and counts.open == 0)):
            self._screen.say(f"{line} · {self._estimate(counts)}")
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
        return ", ".join(filter(None, (f"{self._run_id}: {states} of {total} shards", _stage(run))))

    def _estimate(self, counts: Counts) -> str:
        """The pace and the estimated end by the last minute, and the time since the display began."""
        per_s = self._task.speed or 0.0
        rate = f"{per_s * 60:.0f} shards/min · " if per_s else ""
        end = f"about {duration_text(counts.open / per_s)} left · " if per_s and counts.open else ""
        return f"{rate}{end}{duration_text(self._task.elapsed or 0.0)}"

    def _picture(self, run: Run, counts: Counts) -> Group:
        states = Table.grid(padding=(0, 2))
        states.add_row(
            Text(f"{counts.succeeded} succeeded", style="green"),
            Text(f"{counts.running} running", style="cyan"),
            Text(f"{counts.pending} pending", style="dim"),
            Text(f"{counts.failed} failed", style="red" if counts.failed else "dim"),
            Text(_stage(run), style="yellow"),
        )
        estimate = Text(self._estimate(counts), style="dim")
        details = [Text(""), self._details] if self._details and counts.open else []
        return Group(Text(self._run_id, style="bold"), self._bar, states, estimate, *details)


def _stage(run: Run) -> str:
    """What goes on beside the work, if anything does."""
    if run.cancelled_s is not None and not run.state.ended:
        return "being cancelled …"
    return "" if run.sealed else "planning …"
