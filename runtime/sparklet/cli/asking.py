"""What ``run`` and ``plan`` were asked for, as a request: what is wrong with it is told before anything is started."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import typer

from sparklet.cli import options as opt
from sparklet.cli import planning_options as planning
from sparklet.cli.orchestration_options import FollowUpOptions
from sparklet.errors import PlanError
from sparklet.fanout.planning.fitting import default_max_shard_bytes, refuse_wide_slices
from sparklet.fanout.planning.request import RunRequest
from sparklet.model import existing_of

RUN = "The run"


@dataclass(frozen=True)
class RunIdentity:
    """What a run is and where it writes."""

    PANEL: ClassVar[str] = RUN

    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="s3:// folder or local folder; each shard has a folder of its own in it. Needed unless --dry-run.",
        ),
    ] = ""
    append: Annotated[
        bool, typer.Option("--append", help="Write beside what the output holds already; --incremental does so, too.")
    ] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what earlier runs wrote to the output.")] = (
        False
    )
    name: Annotated[
        str,
        typer.Option(
            "--name", help="The run's id begins with it; runs of one name belong together (default: the script's name)."
        ),
    ] = ""
    run_id: Annotated[
        str, typer.Option("--run-id", metavar="ID", help="The whole run id; the same command again continues that run.")
    ] = ""
    params: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="KEY=VALUE", help="For the script (job.params); may be repeated."),
    ] = None
    env: opt.Env = None
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            metavar="KEY=PATH",
            help="A local file that every shard needs; the parameter of that key is its address.",
        ),
    ] = None
    py_files: Annotated[
        list[str] | None,
        typer.Option("--py-files", metavar="FILE", help=".py, .zip, .whl or .egg for the script; may be repeated."),
    ] = None

    @property
    def existing(self) -> str:
        """What becomes of what the output holds already."""
        return existing_of(append=self.append, overwrite=self.overwrite)


@dataclass(frozen=True)
class Asked:
    """The words of a command that begins a run."""

    script: str
    identity: RunIdentity
    given: planning.InputOptions
    shards: planning.ShardOptions
    ends: planning.EndOptions
    follow_ups: FollowUpOptions
    arguments: tuple[str, ...]

    def request(self) -> RunRequest:
        """The request, before anything is started."""
        self._refuse_odd_follow_ups()
        return RunRequest(
            script=self.script,
            inputs=self.given.named(),
            output_uri=self.identity.output,
            run_id=self.identity.run_id,
            name=self.identity.name,
            py_files=tuple(self.identity.py_files or ()),
            args=self.arguments,
            params=opt.parse_pairs("--param", self.identity.params),
            env=opt.parse_env(self.identity.env),
            options=planning.run_options(self.given, self.shards, self.ends, self.identity.existing),
            lists=self.given.list_requests(),
            access=self.given.access(),
            check=self.follow_ups.check,
            next=self.follow_ups.next,
            next_output=self.follow_ups.next_output,
            idempotency_key=self.follow_ups.idempotency_key,
        )

    def fitted(self, request: RunRequest, memory_mb: int, scratch_bytes: int) -> RunRequest:
        """The request with the largest shard that such a worker takes on, unless the user names a size."""
        options = request.options
        if not self.shards.max_shard_size:
            options = replace(options, max_shard_bytes=default_max_shard_bytes(memory_mb, scratch_bytes))
        refuse_wide_slices(options, scratch_bytes)
        return replace(request, options=options)

    def _refuse_odd_follow_ups(self) -> None:
        follow_ups = self.follow_ups
        if follow_ups.next_output and not follow_ups.next:
            raise PlanError(
                f"--next-output {follow_ups.next_output} has no script that writes there: name it as --next"
            )
        if follow_ups.next_output and "://" not in follow_ups.next_output:
            raise PlanError(f"--next-output {follow_ups.next_output} must be an s3:// folder: nobody waits to fetch it")
        if follow_ups.idempotency_key and self.identity.run_id:
            raise PlanError("--run-id and --idempotency-key were given; give one of them: each names one run")
