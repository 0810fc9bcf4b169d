"""The values that flow through Sparklet, in the order in which they come into being.

::

    InputObject → Shard → PartRecord, ShardRecord → ShardRef (a message)
    ShardRef → Claim → ExecutionResult → ShardResult | Failure → ShardRecord
    Run holds what all shards of a run share; Counts are those shards by state.

All are frozen. Times are seconds since the epoch (``_s``), sizes stored (compressed) bytes (``_bytes``).
"""

from sparklet.model.options import MIB, Access, Key, RunOptions
from sparklet.model.runs import (
    CONF_FILE,
    FOLLOWER_ID,
    INPUT,
    LIBRARIES,
    MODULES,
    NAMES,
    NAMES_FILE,
    OUTPUT,
    OWNER,
    PUBLISHED,
    PY_FILE_SUFFIXES,
    Dispatch,
    ListSource,
    NextRun,
    Run,
    RunKind,
    RunState,
    ScriptRef,
    check_script,
    follower_id,
    next_of,
    published_by,
)
from sparklet.model.shards import (
    ANSWERS,
    APART,
    COMPRESSED,
    COUNTED,
    EVENTS,
    FIRST_BYTES,
    HALVES,
    MAX_CONFLICTS,
    MAX_NAMED,
    MAX_SENT_BYTES,
    MISNAMED,
    NOTHING,
    OF_SPLIT,
    PACKED,
    PASSED_ON,
    RUN_ID,
    SCHEMAS,
    SCHEME,
    SHARDS_PER_BUCKET,
    WITH_MEMBERS,
    WRITES,
    Claim,
    ClaimStatus,
    Counts,
    ExecutionResult,
    Failure,
    InputObject,
    JobOutcome,
    PartRecord,
    Position,
    Record,
    Shard,
    ShardRecord,
    ShardRef,
    ShardResult,
    ShardState,
    Slice,
    SliceKind,
    is_misnamed,
    ledger_bucket,
    ledger_bucket_count,
    s3_address,
    split_uri,
)
from sparklet.model.tasks import (
    MAX_INLINE,
    MAX_NAME,
    TASK_ID,
    ExecutionState,
    ExecutionStatus,
    Notice,
    TaskRecord,
    execution_name,
    successor,
)
