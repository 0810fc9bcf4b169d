"""What S3's answers say of an object."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Literal

from sparklet.ports import ObjectInfo

ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})  # GLACIER_IR is read like any other
RESTORED: Sequence[Literal["RestoreStatus"]] = ["RestoreStatus"]


def listed(bucket: str, found: Mapping[str, Any], version_id: str = "") -> ObjectInfo:
    """An entry of a listing. Of Intelligent-Tiering it does not say whether the object was moved to an archive."""
    return ObjectInfo(
        f"s3://{bucket}/{found['Key']}",
        found["Size"],
        found["ETag"].strip('"'),
        found["LastModified"].timestamp(),
        version_id,
        archived=found.get("StorageClass") in ARCHIVES and not _restored(found.get("RestoreStatus", {})),
    )


def _restored(status: Mapping[str, Any]) -> bool:
    return "RestoreExpiryDate" in status and not status.get("IsRestoreInProgress")


def versions(bucket: str, page: Mapping[str, Any]) -> Iterator[ObjectInfo]:
    """Versions and delete markers of a page, which S3 gives apart, in the order in which they lie in the bucket."""
    markers = ((True, found) for found in page.get("DeleteMarkers", ()))
    every = chain(((False, found) for found in page.get("Versions", ())), markers)
    for deleted, found in sorted(
        every, key=lambda each: (each[1]["Key"].encode(), not each[1]["IsLatest"], -each[1]["LastModified"].timestamp())
    ):
        if deleted:
            uri, modified_s = f"s3://{bucket}/{found['Key']}", found["LastModified"].timestamp()
            yield ObjectInfo(uri, 0, "", modified_s, found["VersionId"], deleted=True)
        else:
            yield listed(bucket, found, found["VersionId"])


def headed(uri: str, version_id: str, found: Mapping[str, Any]) -> ObjectInfo:
    """The answer to a HEAD."""
    cold = found.get("StorageClass") in ARCHIVES or "ArchiveStatus" in found
    return ObjectInfo(
        uri,
        found["ContentLength"],
        found["ETag"].strip('"'),
        found["LastModified"].timestamp(),
        version_id,
        archived=cold and 'ongoing-request="false"' not in found.get("Restore", ""),
    )
