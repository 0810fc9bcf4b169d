"""What an inventory gives, and for which reasons it leaves objects out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sparklet.model import InputObject, Position
from sparklet.ports import ObjectInfo

FOLDER_MARKER = "an empty object that stands for a folder"
EMPTY = "empty"
OLDER = "not modified since the time given"
ARCHIVED = "archived, to be restored before it can be read"
DELETE_MARKER = "a delete marker"
NOT_LATEST = "not the latest version"
DUPLICATE = "named before in this input"
MISSING = "named but not there"
DONE = "done by an earlier run of this name"


@dataclass(frozen=True, slots=True)
class Found:
    """An object of the input, and how far planning has come once it is in a shard."""

    item: InputObject
    position: Position
    skipped: Mapping[str, int] = field(default_factory=dict)  # left out before it by this inventory, by reason


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a source names: an object as it stands, the reason why it cannot be one, or an item."""

    after: str  # how the source names its place, see Position
    uri: str
    info: ObjectInfo | None
    reason: str = ""
    resumed: bool = False  # slices of it are in shards already: it was taken before and is taken again
    item: InputObject | None = None  # set: it is taken as it is
