"""`--dev` sees the files that flows are made of, and no others."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from dispatch import reloading
from dispatch.reloading import Reloading, Watch
from dispatch.settings import Settings
from dispatch.terminal import Screen

PATIENCE_SECONDS = 10.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    for name in (
        "flows.py",
        "prompts.txt",
        "shop/__init__.py",
        "shop/flows.py",
        "apart/__init__.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    return tmp_path


@pytest.mark.parametrize("source", ["flows.py", "flows.py:refund", "flows", "./flows.py"])
def test_files_beside_a_source_changed_added_and_removed(folder: Path, source: str) -> None:
    watch = Watch([source])
    assert watch.changes() == []
    (folder / "flows.py").write_text("x = 1")
    assert watch.changes() == [str(folder / "flows.py")]
    (folder / "more.py").write_text("")
    (folder / "prompts.txt").write_text("Be kind.")
    (folder / ".#flows.py").write_text("an editor's lock")
    assert watch.changes() == [str(folder / "more.py")]
    (folder / "more.py").unlink()
    assert watch.changes() == [str(folder / "more.py")]
    assert watch.changes() == []


def test_a_file_of_the_same_size_that_took_its_place(folder: Path) -> None:
    file = folder / "flows.py"
    file.write_text("x = 1")
    watch = Watch(["flows.py"])
    before = file.stat()
    file.write_text("x = 2")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert watch.changes() == [str(file)]


def test_a_dotted_module_before_and_after_it_could_be_loaded(folder: Path) -> None:
    watch = Watch(["shop.flows:refund"])
    (folder / "shop" / "flows.py").write_text("x = 1")
    assert watch.changes() == [str(folder / "shop" / "flows.py")]


def test_what_has_been_imported_since_is_watched_too(folder: Path) -> None:
    watch = Watch(["flows.py"])
    apart = folder / "apart" / "__init__.py"
    apart.write_text("x = 1")
    assert watch.changes() == []  # nothing has to do with it
    importlib.import_module("apart")
    assert watch.changes() == []
    apart.write_text("x = 22")
    assert watch.changes() == [str(apart)]


def test_what_is_installed_is_not_watched() -> None:
    folders = Watch(["flows.py"])._seen
    assert Path(pytest.__file__).parent not in folders
    assert Path(os.__file__).parent not in folders
    assert Path(__file__).parent in folders


class Stays(Reloading):
    """Only says that it would begin anew."""

    def __init__(self) -> None:
        super().__init__(["flows.py"], Settings(), Screen())
        self.has_begun = threading.Event()

    def begin_anew(self) -> None:  # type: ignore[override] # the true one ends the process
        self.has_begun.set()


async def test_code_that_keeps_the_server_from_stopping_does_not_keep_it_from_beginning_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(reloading, "PATIENCE_SECONDS", 0.01)
    stays = await to_thread.run_sync(Stays)
    await anyio.Path(folder / "flows.py").write_text("x = 1")
    with anyio.fail_after(PATIENCE_SECONDS):
        await stays.changed()
    # Its loop does nothing any more.
    assert await to_thread.run_sync(stays.has_begun.wait, PATIENCE_SECONDS)
