"""Python objects that a recipe names, such as `optax.lamb` or `my_models.py:Net`.

A recipe stays a plain value: it holds the name, the arguments and, for code that is not of a
library, the SHA-256 of the source file. A run keeps a copy of the file, so that it can be done
again after the original has changed.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import importlib
import importlib.util
import inspect
import json
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from flaxcnn.errors import ConfigError, near_miss

NOTEBOOK = "notebook"  # stands in the place of a file
SOURCES = "source"  # folder of a run for the code of its own that its recipe names
LIBRARIES = ("optax", "flax", "jax")  # env.json records their versions
Json = None | bool | int | float | str | tuple["Json", ...]

_texts: dict[str, str] = {}  # digest -> source of an object of a notebook
_copies: contextvars.ContextVar[Path | None] = contextvars.ContextVar("copies", default=None)


# Objects given in Python, by name and digest of their source.
_objects: dict[tuple[str, str], Any] = {}


def remember(target: Any, setting: str = "model") -> tuple[str, str]:
    """The name of a class or function given in Python for a setting, and its source's digest.

    It is the name of the file, where there is one; in a notebook, that of the object alone, which
    only this process can use again.

    Raises:
        ConfigError: it is local to a function, or its source is not known.
    """
    name = target.__qualname__
    if "<" in name:
        raise ConfigError(
            f"{setting}: {name} must be defined at the top of a module or notebook cell"
        )
    file = _defined_in(target)
    if file and Path(file).is_file():
        where, sha = f"{Path(file)}:{name}", _digest(Path(file))
    elif file and (text := "".join(linecache.getlines(file))):  # a notebook keeps its cells there
        where, sha = f"{NOTEBOOK}:{name}", hashlib.sha256(text.encode()).hexdigest()
        _texts[sha] = text
    else:
        raise ConfigError(
            f"{setting}: the source of {name} is not known; write it to a file, in a notebook with "
            "%%writefile my_code.py"
        )
    _objects[where, sha] = target
    return where, sha


def _defined_in(target: Any) -> str | None:
    """The file, or the name of the notebook cell, whose code defines a class or function."""
    own = list(vars(target).values()) if isinstance(target, type) else [target]
    for function in map(inspect.unwrap, filter(callable, own)):
        code = getattr(function, "__code__", None)
        # What a decorator such as dataclass has made is defined elsewhere
        if code and function.__module__ == target.__module__ and code.co_filename[:1] != "<":
            return str(code.co_filename)
        if code and linecache.getlines(code.co_filename):
            return str(code.co_filename)
    return None


def in_notebook(name: str) -> bool:
    """Whether an object was defined in a notebook: only its process can use it."""
    return name.startswith(f"{NOTEBOOK}:")


def source_text(name: str, recorded: str) -> str:
    """The source of an object of one's own, to be kept beside a run.

    Raises:
        ConfigError: the file has changed, or is gone.
    """
    if in_notebook(name):
        if recorded not in _texts:
            raise _not_here(name)
        return _texts[recorded]
    return located(name, recorded).read_text()


def _not_here(name: str) -> ConfigError:
    return ConfigError(f"{name!r}: was defined in a notebook; run the cell that defines it")


@contextlib.contextmanager
def copies_in(folder: Path) -> Iterator[None]:
    """Files are looked for in `folder` too, where the original has changed or is gone."""
    token = _copies.set(folder)
    try:
        yield
    finally:
        _copies.reset(token)


def source_file(name: str) -> Path | None:
    """The file that holds the object called `name`; None for one of a library.

    Raises:
        ConfigError: there is no such file or module.
    """
    place, colon, _ = name.rpartition(":")
    if place == NOTEBOOK:
        return None
    if colon and place.endswith(".py"):
        return Path(place).expanduser()
    module = place if colon else name.rpartition(".")[0]
    if not module or (name.endswith(".py") and not colon):
        raise ConfigError(
            f"{name!r} names no Python object; write FILE.py:NAME, or package.module:NAME"
        )
    if module.partition(".")[0] in LIBRARIES:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(f"{name!r}: there is no module {module}")
    return Path(spec.origin)


def digest(name: str) -> str:
    """SHA-256 (hex) of the source of an object; empty for one of a library.

    Raises:
        ConfigError: there is no such file or module.
    """
    if (path := source_file(name)) is None:
        return ""
    try:
        return _digest(path)
    except OSError as error:
        raise ConfigError(f"{name!r}: cannot read {path} ({error.strerror})") from None


def name_of(given: str | Callable[..., Any], source: str, setting: str) -> tuple[str, str]:
    """The name of an object given for a setting by name or, in Python, itself; and its digest.

    Raises:
        ConfigError: there is no such file or module, or its source is not known.
    """
    if isinstance(given, str):
        return given, source or digest(given)
    if not hasattr(given, "__qualname__"):
        raise ConfigError(
            f"{setting}: give a class or function, or its name as FILE.py:NAME (got {given!r})"
        )
    library = given.__module__.partition(".")[0]
    if library in LIBRARIES and getattr(sys.modules[library], given.__name__, None) is given:
        return f"{library}.{given.__name__}", ""
    return remember(given, setting)


def resolve(name: str, recorded: str) -> Any:
    """The object called `name`, from a source with the digest `recorded`.

    Raises:
        ConfigError: it is not there, it raises when it is imported, or its source has changed.
    """
    if (name, recorded) in _objects:
        return _objects[name, recorded]
    if in_notebook(name):
        raise _not_here(name)
    place, colon, attribute = name.rpartition(":")
    if not colon:  # package.module.attribute
        place, _, attribute = name.rpartition(".")
    if source_file(name) is None:
        return _attribute(name, _library(name, place), attribute)
    file = located(name, recorded)
    module = load_file(file, f"flaxcnn_own_{file.stem}_{recorded[:16]}")  # one for each content
    return _attribute(name, module, attribute)


def located(name: str, recorded: str) -> Path:
    """The file of an object, or the copy of it, that has the digest `recorded`.

    Raises:
        ConfigError: neither has.
    """
    path, copies = source_file(name), _copies.get()
    assert path is not None  # libraries and notebooks have none
    beside = [copies / path.name, copies / copy_name(path.name, recorded)] if copies else []
    for candidate in (path, *beside):
        if candidate.is_file() and _digest(candidate) == recorded:
            return candidate
    if not path.is_file():
        raise ConfigError(f"{name!r}: there is no file {path}")
    raise ConfigError(
        f"{name!r}: {path} has changed since the recipe was made (its SHA-256 was "
        f"{recorded[:12]}..., now {_digest(path)[:12]}...); start a new run"
    )


def copy_name(name: str, recorded: str) -> str:
    """The name of the copy of a file where another copy has its own: `nets-1a2b3c4d.py`."""
    path = Path(name)
    return f"{path.stem}-{recorded[:8]}{path.suffix}"


def since_recorded(name: str, recorded: str) -> str:
    """Whether the source of an object is what a recipe was made with, in one sentence."""
    if in_notebook(name):
        return f"{name.partition(':')[2]} was defined in a notebook (SHA-256 {recorded[:12]}...)"
    path = source_file(name)
    assert path is not None  # libraries have no digest
    if not path.is_file():
        return f"{path} is gone; the copy with SHA-256 {recorded[:12]}... in the record is used"
    if (now := _digest(path)) == recorded:
        return f"{path} is as recorded (SHA-256 {recorded[:12]}...)"
    return (
        f"{path} has changed (SHA-256 then {recorded[:12]}..., now {now[:12]}...); the copy in the "
        "record is used"
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _library(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{name!r}: {error}") from None


def load_file(path: Path, name: str) -> ModuleType:
    """A Python file run as the module `name`, unless that is loaded from it already.

    Raises:
        ConfigError: the file raises when it is run.
    """
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a .py path always has a spec and a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == str(path)]  # fmt: skip
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(f"{where}: {kind}{error}") from error
    return module


def _attribute(name: str, module: ModuleType, attribute: str) -> Any:
    if not hasattr(module, attribute):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise ConfigError(f"{name!r}: no {attribute!r} there{near_miss(attribute, known)}")
    return getattr(module, attribute)


class TakesArguments:
    """A specification with arguments of any name, beside its own fields.

    Each is a JSON value: a number, a text, true, false, null, or a list of them. In JSON they stand
    beside the fields; in Python they are keyword arguments.
    """

    arguments: tuple[tuple[str, Json], ...]

    def _set(self, where: str, fields: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Set the fields of a frozen dataclass, and the arguments in the order of their names."""
        plain = tuple((key, _plain(f"{where}.{key}", arguments[key])) for key in sorted(arguments))
        for key, value in {**fields, "arguments": plain}.items():
            object.__setattr__(self, key, value)

    @property
    def named(self) -> dict[str, Any]:
        """The arguments by name."""
        return dict(self.arguments)

    @property
    def code(self) -> tuple[str, str]:
        """The name of the object, which is the first field, and the SHA-256 of its source."""
        own: Any = self
        return getattr(own, next(iter(own.__dataclass_fields__))), own.source


def _plain(where: str, value: Any) -> Json:
    """A JSON value, lists as tuples.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, list | tuple):
        return tuple(_plain(where, item) for item in value)
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        value = object
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"{where} must be a number, text, true, false, none or a list of them, so that a recipe "
        "can be written down"
    )
