"""Options of ``run`` and ``plan``: who drives a run, what judges and follows it, and by what it is known again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

ORCHESTRATION = "Orchestration"

WantedMode = Literal["queue", "loop", "map", "inline", "auto"]
DispatchModeOption = Annotated[
    WantedMode,
    typer.Option(
        "--dispatch-mode",
        rich_help_panel=ORCHESTRATION,
        help="How shards reach workers. queue: this command plans the run and fills the queue, and the stack's checker "
        "looks after it. loop: a state machine does so. map: a state machine hands all shards out at once, in a "
        "Distributed Map. inline: likewise in an inline Map, for up to 40 shards. auto: inline for up to 40 shards, "
        "loop for more or with --rate.",
    ),
]
Prices = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        envvar="SPARKLET_PRICES",
        metavar="FILE",
        rich_help_panel=ORCHESTRATION,
        help="Prices and limits of your own (TOML) that correct Sparklet's; docs/guide/costs.md says how.",
    ),
]


@dataclass(frozen=True)
class FollowUpOptions:
    """What judges a run and what follows it; by which key it is one and the same."""

    PANEL: ClassVar[str] = ORCHESTRATION

    check: Annotated[
        str,
        typer.Option(
            "--check",
            metavar="SCRIPT",
            help="A script that judges the run when all its shards have ended; if it fails, the run has FAILED.",
        ),
    ] = ""
    next: Annotated[
        str, typer.Option("--next", metavar="SCRIPT", help="A script to run over the output once the run ended well.")
    ] = ""
    next_output: Annotated[
        str,
        typer.Option(
            "--next-output",
            metavar="FOLDER",
            help="s3:// folder where the next script writes (default: output/RUN-next/ in the stack's bucket).",
        ),
    ] = ""
    idempotency_key: Annotated[
        str,
        typer.Option(
            "--idempotency-key",
            metavar="KEY",
            help="Of one key and name there is one run: starting it again finds that one. Instead of --run-id.",
        ),
    ] = ""
