"""Whether the shards of a run wrote files of different schemas to one output, where one Spark job writes one.

Workers keep the schemas of a run in files named by output and schema (``model.schemas``), so one listing shows whether
any output has two. Only then shards are read: a file may be that of an attempt that has not won.
"""

import json
from collections import defaultdict

from sparklet.ledger.rules import cut
from sparklet.model import SCHEMAS, Run, ShardState
from sparklet.model.schemas import OutputSchema
from sparklet.ports.deployment import Deployment

MAX_SHOWN_BYTES = 1000  # of the difference


def drift_of(at: Deployment, run: Run) -> str:
    """Two files of SUCCEEDED shards that should have the same columns and types, and the difference; "" if all have.

    An output to which one shard alone has written several schemas is not compared: so would one job.
    """
    prefix = at.run_uri(run.run_id, SCHEMAS)
    known = defaultdict[str, set[str]](set)
    for info in at.store.list(prefix):
        name = info.uri.removeprefix(prefix).removesuffix(".json")
        known[name.partition("-")[0]].add(name)
    several = {output: names for output, names in known.items() if len(names) > 1}
    files = defaultdict[str, dict[str, str]](dict)  # by output and schema the first shard's
    for record in at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED) if several else ():
        for output, names in several.items():
            own = names & record.schemas.keys()
            if len(own) > 1:
                files[output] = {}
            elif output not in files or files[output]:
                for name in own:
                    files[output].setdefault(name, f"{run.shard_output(record.number)}/{record.schemas[name]}")
    for each in files.values():
        if len(each) > 1:
            (one, first), (other, second), *_ = each.items()
            one_is, other_is = (
                OutputSchema(*json.loads(at.store.get(f"{prefix}{name}.json"))) for name in (one, other)
            )
            difference = cut(one_is.difference(other_is), MAX_SHOWN_BYTES)
            return (
                f"shards wrote different columns to one output: {first} and {second} ({difference}). "
                "One Spark job writes one schema: give the run's (--schema), or --allow-drift"
            )
    return ""
