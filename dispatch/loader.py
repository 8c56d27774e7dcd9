"""From MODULE_OR_FILE to flows, and from what goes wrong on the way to one clear sentence.

A source is a path (`my_flows.py`), a dotted module or package (`shop.flows`), or either with the
name of one flow behind a colon (`shop.flows:refund`). Loading runs the module, as an import does.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from types import ModuleType

from dispatch import mistakes
from dispatch.core.errors import DispatchError, FlowMistake, InvalidRequest
from dispatch.flow import FlowVersion

#: Of the names under which files are loaded.
_PREFIX = "dispatch_flows_"


def load(sources: Iterable[str]) -> list[FlowVersion]:
    """The flows of all sources, each once, in the order of the sources and of their files.

    A module's flows are all flows among its globals, also those that it imports; a package's are
    those of its submodules too. Raises `InvalidRequest` for a source that isn't there or has no
    flow, `FlowMistake` for one that can't be loaded.
    """
    # By place: a file that is named, and also imported by its sibling, is loaded as two modules.
    flows = {(one.where, one.id, one.version): one for source in sources for one in _load(source)}
    return list(flows.values())


def _load(source: str) -> list[FlowVersion]:
    place, _, name = source.partition(":")
    if not place:
        raise InvalidRequest(f"{source!r} names no module and no file", code="source-unknown")
    modules = _load_file(place) if _is_path(place) else _load_module(place)
    if name:
        found = getattr(modules[0], name, None)
        if not isinstance(found, FlowVersion):
            raise InvalidRequest(f"{place} has no flow named {name}", code="source-unknown")
        return [found]
    flows = [
        one for module in modules for one in vars(module).values() if isinstance(one, FlowVersion)
    ]
    if not flows:
        raise InvalidRequest(
            f'{place} has no flow: decorate an async generator function with @flow("name")',
            code="no-flows",
        )
    return flows


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


# --- files ----------------------------------------------------------------------------------------


def _load_file(place: str) -> list[ModuleType]:
    path = Path(place).resolve()
    if path.is_dir():
        raise InvalidRequest(
            f"{path} is a folder: name its files, or its package with dots", code="source-unknown"
        )
    if not path.is_file():
        raise InvalidRequest(f"there is no file {path}", code="source-unknown")
    # One private name for each path: a module of the user's, or of Python's, is never shadowed.
    name = f"{_PREFIX}{blake2b(bytes(path), digest_size=6).hexdigest()}_{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None:
        return [loaded]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{path} is not a Python file", code="source-unknown")
    _make_importable(path.parent)
    module = importlib.util.module_from_spec(spec)
    _refuse_twins(path)
    # Before it runs: dataclasses and msgspec look a class's module up there.
    sys.modules[name] = module
    try:
        with _explained(place):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return [module]


def _refuse_twins(path: Path) -> None:
    """Raise `FlowMistake` if what `path` imports from beside it would be another file's sibling:
    Python keeps one module of a name.
    """
    folders = {
        Path(str(module.__file__)).parent
        for name, module in sys.modules.items()
        if name.startswith(_PREFIX)
    } - {path.parent}
    for name in _imported_by(path):
        sibling = path.parent / f"{name}.py"
        loaded = getattr(sys.modules.get(name), "__file__", None)
        if loaded is not None and sibling.is_file() and Path(loaded).parent in folders:
            raise FlowMistake(
                f"{path} imports {sibling}, and {loaded} is loaded under that name: rename one of "
                "them, or make packages of their folders"
            )


def _imported_by(path: Path) -> set[str]:
    """The modules that its own text imports, up to their first dot."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return set()  # which is told when it is run
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _make_importable(folder: Path) -> None:
    """As Python does for the file it runs, so that it can import its siblings."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


# --- modules --------------------------------------------------------------------------------------


def _load_module(place: str) -> list[ModuleType]:
    _make_importable(Path.cwd())
    with _explained(place):
        modules = [importlib.import_module(place)]
    folders = getattr(modules[0], "__path__", None)
    if folders is not None:
        for info in pkgutil.iter_modules(folders, place + "."):
            # Importing a __main__ would run a program.
            if info.name.rpartition(".")[2] != "__main__":
                modules += _load_module(info.name)
    return modules


# --- what goes wrong ------------------------------------------------------------------------------


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Whatever the import of `place` raises becomes one sentence with file and line."""
    try:
        yield
    except DispatchError:
        raise
    except SyntaxError as exc:
        raise mistakes.explain_syntax(exc) or FlowMistake(
            f"{exc.filename}:{exc.lineno}: {exc.msg}: {(exc.text or '').strip()}"
        ) from exc
    except ModuleNotFoundError as exc:
        if not _is_path(place) and _is_part_of(place, exc.name):
            raise InvalidRequest(
                f"there is no module {place}: a file is named with its ending, "
                f"{place.replace('.', '/')}.py",
                code="source-unknown",
            ) from exc
        raise FlowMistake(
            f"{_where(exc, place)} imports {exc.name}, which is not installed"
        ) from exc
    except (Exception, SystemExit) as exc:  # the module is somebody else's code: it may do anything
        raise FlowMistake(
            f"{_where(exc, place)} cannot be loaded: {type(exc).__name__}: {exc}"
        ) from exc


def _is_part_of(place: str, missing: str | None) -> bool:
    return missing is not None and f"{place}.".startswith(f"{missing}.")


def _where(error: BaseException, place: str) -> str:
    """`file:line` where loading failed: the innermost one that isn't the import machinery."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else place
