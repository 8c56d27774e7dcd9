"""Which kind of file system a path is on, as far as the operating system's table of mounts tells.

Network file systems are refused: SQLite's log needs memory that all its readers share, and their
locks are granted twice, or never given back. A database there works until it is damaged.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from dispatch.core.errors import Unavailable

_TABLE = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|coda|ceph|lustre|beegfs|gpfs|orangefs|davfs|"
    r"fuse\.(sshfs|nfs\w*|cifs|smb\w*|ceph\w*|glusterfs|s3\w*|gcs\w*|rclone|davfs\w*|juicefs)"
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


class FileSystem(NamedTuple):
    kind: str
    is_network: bool


def check_mount(path: Path, mounts: Path = _TABLE) -> None:
    """Raise `Unavailable` (`store-network`) if `path` is on a network file system.

    What is not known is allowed.
    """
    found = file_system(path, mounts)
    if found is not None and found.is_network:
        raise Unavailable(
            f"{path} is on a network file system ({found.kind}), where SQLite's locks and shared "
            "memory cannot be relied on and the database would be damaged: give a path on a local "
            "disk, and let clients reach it through one machine's servers",
            code="store-network",
        )


def file_system(path: Path, mounts: Path = _TABLE) -> FileSystem | None:
    """What `path` is on; None where there is no table `mounts`, or it doesn't say."""
    try:
        table = mounts.read_text(errors="surrogateescape")
    except OSError:
        return None
    return told(path.resolve(), table)


def told(path: Path, table: str) -> FileSystem | None:
    """What the absolute `path` is on, by a `table` as in proc_pid_mountinfo(5)."""
    longest, kind = -1, ""
    for line in table.splitlines():
        left, separator, right = line.partition(" - ")
        fields, described = left.split(" "), right.split(" ")
        if not separator or len(fields) < 5:
            continue
        mounted = Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), fields[4]))
        # What is mounted later, over the same place, hides what was there.
        if path.is_relative_to(mounted) and len(mounted.parts) >= longest:
            longest, kind = len(mounted.parts), described[0]
    return FileSystem(kind, bool(_NETWORK.fullmatch(kind))) if kind else None
