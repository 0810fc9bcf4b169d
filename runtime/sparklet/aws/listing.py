"""Pages of a listing of S3 in the order of keys; of many folders the first pages are asked for side by side.

One page names the next, so a million objects would be a thousand requests in a row.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from typing import Any, Protocol

from sparklet.aws.parallel import in_parallel

MANY_KEYS = 4000  # of a prefix, in a row
MIN_KEYS_A_FOLDER = 500  # a page each would be dear for folders of less
FOLDERS_AHEAD = 8  # pages in memory
MANY_FOLDERS = 16  # whose keys show how many the others have

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
        keys, last = keys + len(names), _last_key(page) or last
        folders.update(name[: name.find("/", len(prefix)) + 1] for name in names)  # "": in the prefix itself
        if keys < max(MANY_KEYS, MIN_KEYS_A_FOLDER * len(folders)) or "" in folders:
            page = lister(prefix, ContinuationToken=page["NextContinuationToken"])
            continue
        small_after = yield from _by_folders(lister, prefix, last)
        if not small_after:
            return
        keys, folders, page = 0, set(), lister(prefix, small_after)


def _by_folders(lister: Lister, prefix: str, last: str) -> Generator[Page, None, str]:
    """What follows a key in a prefix, of several folders side by side; returns the last key if folders are small."""
    # Not by the delimiter: servers differ in whether they name a folder that the listing starts within.
    for page in pages(lister, last[: last.index("/", len(prefix)) + 1], last):
        last = _last_key(page) or last
        yield page
    keys, folders, parts = 0, 0, _parts(lister, prefix, last)
    first_pages = in_parallel(lambda part: (part[0], part[1] or lister(part[0])), parts, FOLDERS_AHEAD, ahead=1)
    # A caller may stop before the end: closing ends the threads that ask ahead.
    with closing(first_pages):
        for name, first in first_pages:
            for page in pages(lister, name, page=first):
                keys, last = keys + len(page.get("Contents", ())), _last_key(page) or last
                yield page
            folders += name.endswith("/")
            if folders >= MANY_FOLDERS and keys < MIN_KEYS_A_FOLDER * folders:
                return last
    return ""


def _last_key(page: Page) -> str:
    return page["Contents"][-1]["Key"] if page.get("Contents") else ""


def _parts(lister: Lister, prefix: str, start_after: str) -> Iterator[tuple[str, Page | None]]:
    """What follows directly in a prefix: folders, and files, each of which is a page."""
    page = lister(prefix, start_after, Delimiter="/")
    while True:
        names = (folder["Prefix"] for folder in page.get("CommonPrefixes", ()))
        parts: dict[str, Page | None] = {name: None for name in names if not start_after.startswith(name)}
        parts |= {entry["Key"]: {"Contents": [entry]} for entry in page.get("Contents", ())}
        # S3 answers folders and keys in two lists, each in order by itself.
        yield from sorted(parts.items(), key=lambda part: part[0])
        if not page.get("IsTruncated"):
            return
        page = lister(prefix, Delimiter="/", ContinuationToken=page["NextContinuationToken"])
