"""``lambda-large``: a second worker function, with the most memory and /tmp that Lambda has; a call for each shard.

Lambda runs the calls asynchronously and, by the template, never repeats one. It does not report how a call ended and
cannot stop one: a lost worker is noticed when its lease expires, or after 15 minutes without a claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from sparklet.aws.clients import AwsClients
from sparklet.aws.services import LambdaCompute
from sparklet.engines import Asked, Kind
from sparklet.model.quantities import Figure
from sparklet.ports import Engine


@dataclass(frozen=True)
class LargeFunction(Engine):
    """Calls the large function, whose workers claim shards under the engine's name in their environment."""

    compute: LambdaCompute
    function: str
    at_once: int = 0  # workers; Lambda would keep further calls waiting, and they would seem to be lost
    traces_inputs: bool = True

    @classmethod
    def from_settings(cls, *, clients: AwsClients, function: str, atOnce: int, **_: Any) -> Self:  # noqa: N803 - JSON's
        """Create the engine by its entry in SPARKLET_ENGINES. Other arguments are ignored: the function has them."""
        return cls(LambdaCompute(clients), function, int(atOnce))

    def start(self, token: str, command: Sequence[str]) -> str:
        """Call the function for the shard of a command ``shard --run RUN --shard N --generation G``."""
        options = dict(zip(command[1::2], command[2::2], strict=True))
        shard, generation = int(options["--shard"]), int(options["--generation"])
        event = {"run_id": options["--run"], "shard": shard, "generation": generation}
        # The place in the plan stays empty: the worker reads it from the record that it claims.
        self.compute.invoke(self.function, {**event, "part": "", "offset": 0, "length": 0}, wait=False)
        return token

    def stop(self, task_id: str) -> None:
        """Do nothing: the function ends by itself, after 15 minutes at the latest."""


SOURCE = "Lambda price list, secondary: an hour of 10 GB of memory and of 9.5 GB of /tmp"
KIND = Kind(
    make=LargeFunction.from_settings,
    about="a second worker function with 10,240 MB and as much `/tmp`, if your [account allows](deploy.md#deploy) it: "
    "`LargeFunction=yes`, without `Revision`",
    hours={"": Figure(0.601057, "2026-11", SOURCE), "_arm64": Figure(0.481059, "2026-11", SOURCE)},
    to_work=[Asked("functions.invoke", ["{LargeWorkerFunctionAliaslive}"])],
)
