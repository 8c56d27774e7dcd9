"""Which kind of file system a path is on, as far as the operating system's table of mounts tells.

Network file systems are refused: SQLite's log needs memory that all its readers share, and their
locks are granted twice, or never given back. A database there works until it is damaged.
"""

from __future__ import annotations

import re
from pathlib import Path

from dispatch.core.errors import Unavailable

_TABLE = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|9p|afs|coda|ceph|lustre|beegfs|gpfs|orangefs|davfs|"
    r"fuse\.(sshfs|nfs\w*|cifs|smb\w*|ceph\w*|glusterfs|s3\w*|gcs\w*|rclone|davfs\w*|juicefs)"
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def check_mount(path: Path, mounts: Path = _TABLE) -> None:
    """Raise `Unavailable` (`store-network`) if `path` is on a network file system.

    Where there is no table `mounts`, nothing is known and all is allowed.
    """
    try:
        table = mounts.read_text(errors="surrogateescape")
    except OSError:
        return
    kind = network_kind(path.resolve(), table)
    if kind is not None:
        raise Unavailable(
            f"{path} is on a network file system ({kind}), where SQLite's locks and shared memory "
            "cannot be relied on and the database would be damaged: give a path on a local disk, "
            "and let clients reach it through one machine's servers",
            code="store-network",
        )


def network_kind(path: Path, table: str) -> str | None:
    """The kind of the file system that holds the absolute `path`, if it is one of the network;
    `table` as in proc_pid_mountinfo(5).
    """
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
    return kind if _NETWORK.fullmatch(kind) else None
