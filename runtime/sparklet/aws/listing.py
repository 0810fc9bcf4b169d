"""Pages of a listing of S3 in the order of keys; of many folders the first pages are asked for side by side.

One page names the next, so a million objects would be a thousand requests in a row.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from sparklet.aws.parallel import in_parallel

MANY_KEYS = 4000  # of a prefix, in a row
MIN_KEYS_A_FOLDER = 500  # a page each would be dear for folders of less
FOLDERS_AHEAD = 8  # pages in memory

Page = Mapping[str, Any]


class Lister(Protocol):
    """One request for the keys below a prefix."""

    def __call__(self, prefix: str, start_after: str = "", **more: Any) -> Page:
        """The answer of ListObjectsV2."""


def pages(lister: Lister, prefix: str, start_after: str = "", page: Page | None = None) -> Iterator[Page]:
    """All pages of a prefix; ``page``: its first, if it is there already."""
    keys, folders, last = 0, set[str](), start_after
    page = page or lister(prefix, start_after)
    while True:
        yield page
        if not page.get("IsTruncated"):
            return
        names = [entry["Key"] for entry in page.get("Contents", ())]
        keys, last = keys + len(names), names[-1] if names else last
        folders.update(name[: name.find("/", len(prefix)) + 1] for name in names)  # "": in the prefix itself
        if keys >= max(MANY_KEYS, MIN_KEYS_A_FOLDER * len(folders)) and "" not in folders:
            break
        page = lister(prefix, ContinuationToken=page["NextContinuationToken"])
    # Not by the delimiter: servers differ in whether they name a folder that the listing starts within.
    for page in pages(lister, last[: last.index("/", len(prefix)) + 1], last):
        last = page["Contents"][-1]["Key"] if page.get("Contents") else last
        yield page
    parts = _parts(lister, prefix, last)
    for name, first in in_parallel(lambda part: (part[0], part[1] or lister(part[0])), parts, FOLDERS_AHEAD, ahead=1):
        yield from pages(lister, name, page=first)


def _parts(lister: Lister, prefix: str, start_after: str) -> Iterator[tuple[str, Page | None]]:
    """What follows directly in a prefix: folders, and files, each of which is a page."""
    page = lister(prefix, start_after, Delimiter="/")
    while True:
        parts: dict[str, Page | None] = {folder["Prefix"]: None for folder in page.get("CommonPrefixes", ())}
        parts |= {entry["Key"]: {"Contents": [entry]} for entry in page.get("Contents", ())}
        yield from sorted(parts.items(), key=lambda part: part[0])
        if not page.get("IsTruncated"):
            return
        page = lister(prefix, Delimiter="/", ContinuationToken=page["NextContinuationToken"])
