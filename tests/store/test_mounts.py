"""Which paths are on a network file system, told from tables of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatch.core.errors import Unavailable
from dispatch.store.mounts import check_mount, told

TABLE = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 27 0:27 / /home rw,relatime shared:2 master:1 - nfs4 server:/home rw,vers=4.2
31 30 254:1 / /home/local rw,relatime - xfs /dev/vdb rw
32 27 0:28 / /mnt/my\040share rw,relatime - cifs //server/share rw
33 27 0:29 / /mnt/c rw,noatime - 9p C:\134 rw,trans=fd
34 27 0:30 / /mnt/far rw,nosuid - fuse.sshfs me@there: rw,user_id=0
35 27 0:31 / /mnt/near rw,nosuid - fuse.bindfs /srv rw
36 27 0:32 / /over rw - nfs server:/over rw
37 36 254:2 / /over rw - ext4 /dev/vdc rw
38 27 254:3 / /under rw - ext4 /dev/vdd rw
39 38 0:33 / /under rw - glusterfs x rw
40 39 0:34 / /under rw - fuse.glusterfs x rw
a line of something else
"""


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/srv/dispatch.db", ("ext4", False)),
        ("/home/me/dispatch.db", ("nfs4", True)),
        ("/home", ("nfs4", True)),
        ("/homes/me/dispatch.db", ("ext4", False)),
        ("/home/local/dispatch.db", ("xfs", False)),
        ("/mnt/my share/deep/dispatch.db", ("cifs", True)),
        ("/mnt/c/dispatch.db", ("9p", True)),
        ("/mnt/far/dispatch.db", ("fuse.sshfs", True)),
        ("/mnt/near/dispatch.db", ("fuse.bindfs", False)),
        ("/over/dispatch.db", ("ext4", False)),
        ("/under/dispatch.db", ("fuse.glusterfs", True)),
    ],
)
def test_the_innermost_mount_tells(path: str, found: tuple[str, bool]) -> None:
    assert told(Path(path), TABLE) == found


@pytest.mark.parametrize("table", ["", "\n", "nothing of this kind"])
def test_of_an_unknown_table_nothing_is_said(table: str) -> None:
    assert told(Path("/srv/dispatch.db"), table) is None


def test_what_lies_behind_a_link_counts(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    table = tmp_path / "mountinfo"
    table.write_text(f"1 2 0:1 / {tmp_path}/far rw - nfs server:/x rw\n")
    with pytest.raises(Unavailable, match=r"network file system \(nfs\).*local disk") as refused:
        check_mount(tmp_path / "near" / "dispatch.db", table)
    assert refused.value.code == "store-network"
    check_mount(tmp_path / "dispatch.db", table)


def test_without_a_table_all_is_allowed(tmp_path: Path) -> None:
    check_mount(tmp_path / "dispatch.db", tmp_path / "none")
