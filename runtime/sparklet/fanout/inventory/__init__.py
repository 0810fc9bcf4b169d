"""What a run's input consists of: S3 folders, objects and lists, read in order and from any position on.

::

    sources   folders, objects          ─┐
    lists     rows → entries → (HEAD)   ─┴▶ candidates ─▶ objects: Found, or left out for a counted reason
    digests   what was named or done already, on disk
"""

from sparklet.fanout.inventory.found import FOLDER_MARKER, Found
from sparklet.fanout.inventory.lists import ListReader, list_format
from sparklet.fanout.inventory.objects import (
    Inventory,
    open_inventory,
    refuse_other_regions,
    refuse_overlap,
    resolve_inputs,
)

__all__ = [
    "FOLDER_MARKER",
    "Found",
    "Inventory",
    "ListReader",
    "list_format",
    "open_inventory",
    "refuse_other_regions",
    "refuse_overlap",
    "resolve_inputs",
]
