"""The values that flow through Sparklet, in the order in which they come into being.

::

    InputObject → Shard → PartRecord, ShardRecord → ShardRef (a message)
    ShardRef → Claim → ShardResult | Failure → ShardRecord
    Run holds what all shards of a run share; Counts are those shards by state.

All are frozen. Times are seconds since the epoch (``_s``), sizes stored (compressed) bytes (``_bytes``).
"""

from sparklet.model.batches import BATCH as BATCH
from sparklet.model.batches import JOB_FILE as JOB_FILE
from sparklet.model.batches import BatchRef as BatchRef
from sparklet.model.batches import ObjectsJob as ObjectsJob
from sparklet.model.runs import Access as Access
from sparklet.model.runs import Dispatch as Dispatch
from sparklet.model.runs import ListSource as ListSource
from sparklet.model.runs import NextRun as NextRun
from sparklet.model.runs import Run as Run
from sparklet.model.runs import RunOptions as RunOptions
from sparklet.model.runs import RunState as RunState
from sparklet.model.runs import ScriptRef as ScriptRef
from sparklet.model.runs import existing_of as existing_of
from sparklet.model.services import INLINE_MOST as INLINE_MOST
from sparklet.model.services import LONGEST_NAME as LONGEST_NAME
from sparklet.model.services import ExecutionState as ExecutionState
from sparklet.model.services import ExecutionStatus as ExecutionStatus
from sparklet.model.services import execution_name as execution_name
from sparklet.model.services import successor as successor
from sparklet.model.shards import RUN_ID as RUN_ID
from sparklet.model.shards import SHARDS_PER_BUCKET as SHARDS_PER_BUCKET
from sparklet.model.shards import Claim as Claim
from sparklet.model.shards import ClaimStatus as ClaimStatus
from sparklet.model.shards import Counts as Counts
from sparklet.model.shards import Failure as Failure
from sparklet.model.shards import InputObject as InputObject
from sparklet.model.shards import PartRecord as PartRecord
from sparklet.model.shards import Position as Position
from sparklet.model.shards import Shard as Shard
from sparklet.model.shards import ShardRecord as ShardRecord
from sparklet.model.shards import ShardRef as ShardRef
from sparklet.model.shards import ShardResult as ShardResult
from sparklet.model.shards import ShardState as ShardState
from sparklet.model.shards import Slice as Slice
from sparklet.model.shards import SliceKind as SliceKind
from sparklet.model.shards import ledger_bucket as ledger_bucket
from sparklet.model.shards import ledger_bucket_count as ledger_bucket_count
from sparklet.model.tasks import TASK_ID as TASK_ID
from sparklet.model.tasks import Notice as Notice
from sparklet.model.tasks import TaskRecord as TaskRecord
