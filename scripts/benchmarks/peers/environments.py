"""Environments that peers are installed in, one each, outside of the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.benchmarks.peers.known import PEERS, Peer

INSTALL_SECONDS = 600


def python_of(peer: Peer, cache: Path) -> Path:
    return _folder(peer, cache) / "bin" / "python"


def is_installed(peer: Peer, cache: Path) -> bool:
    note = _note(peer, cache)
    return note.exists() and note.read_text() == "\n".join(peer.requirements)


def install(cache: Path) -> None:
    """Install all that are not, and say which can't be, and why."""
    for peer in PEERS:
        if not is_installed(peer, cache):
            print(f"installing {' '.join(peer.requirements)}", file=sys.stderr)
            try:
                _install(peer, cache)
            except (OSError, subprocess.SubprocessError) as exc:
                print(f"{peer.kind}: skipped: {_reason(exc)}", file=sys.stderr)


def _install(peer: Peer, cache: Path) -> None:
    folder = _folder(peer, cache)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(python_of(peer, cache)), "-m", "pip", "install", "--quiet", *peer.requirements])
    _note(peer, cache).write_text("\n".join(peer.requirements))


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)


def _reason(exc: Exception) -> str:
    told = exc.stderr if isinstance(exc, subprocess.CalledProcessError) else None
    errors = [line for line in (told or "").splitlines() if line.startswith("ERROR")]
    return errors[-1] if errors else str(exc)


def _folder(peer: Peer, cache: Path) -> Path:
    return cache / "peers" / peer.environment


def _note(peer: Peer, cache: Path) -> Path:
    """What was installed there, once all of it was."""
    return _folder(peer, cache) / "installed"
