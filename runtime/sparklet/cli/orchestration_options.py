"""Options of ``run`` and ``plan``: who drives a run, what judges and follows it, and by what it is known again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import typer

ORCHESTRATION = "Orchestration"

Via = Literal["auto", "loop", "map", "inline", "none"]
ViaOption = Annotated[
    Via,
    typer.Option(
        "--via",
        rich_help_panel=ORCHESTRATION,
        help="Who drives the run. none: this command plans it and fills the queue, the stack's checker looks after it. "
        "loop, map: a state machine, over the queue or as a Distributed Map; inline: the same for up to 40 shards. "
        "auto: the one that `sparklet plan --explain` chooses.",
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
