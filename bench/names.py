"""Text to objects: `Karras(rho=7)`, `ddim`, `mylab.schedules:Mine(x=3)`. No code is evaluated."""

import ast
import dataclasses
import difflib
import importlib
import inspect
import keyword
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = str(Path(__file__).parent)
Rooms = tuple[ModuleType, ...]


class UnknownName(ValueError):
    """A name that cannot stand where it stands.

    name: as it is written.
    roles: the classes that may stand there. Empty: any class, or none.
    """

    def __init__(self, message: str, name: str, roles: tuple[type, ...]):
        super().__init__(message)
        self.name, self.roles = name, roles


def nearest(name: str, known: Iterable[str], other: Mapping[str, str] | None = None) -> str:
    """The end of an error message: the known name that is most similar, and all known names.

    Arguments:
        other: another spelling, lower case -> the known name that it means.
    """
    known = list(known)
    if name.lower() == "fid" and "fd" in known:
        return "; did you mean fd? FID is fd on inception-v3-compat"
    hint = f"; did you mean {found}?" if (found := _close(name, known, other)) else ""
    return f"{hint} (known: {', '.join(known) or 'none'})"


def _close(name: str, known: Iterable[str], other: Mapping[str, str] | None = None) -> str:
    """The known name that is most similar, or "". A name that goes on from it comes first."""
    folded = {**(other or {}), **{item.lower(): item for item in known}}
    longer = [item for key, item in folded.items() if key.startswith(name.lower())]
    if len(name) > 2 and longer:
        return longer[0]
    close = difflib.get_close_matches(name.lower(), folded, 1, 0.4)
    return folded[close[0]] if close else ""


def public(module: ModuleType) -> dict[str, type]:
    """The dataclasses that a module defines, by name. Names that start with _ are left out."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and dataclasses.is_dataclass(value)
        and (value.__module__ + ".").startswith(module.__name__ + ".")
        and not name.startswith("_")
    }


def build(
    text: str,
    module: ModuleType | Rooms,
    values: Mapping[str, Any] | None = None,
    role: type | None = None,
) -> Any:
    """The object that a written form describes.

    A form is the name of a dataclass, or a call: `Karras`, `Karras(3)`, `Karras(rho=3)`. Case,
    hyphens and underscores in a name do not matter. `my.module:Name(...)` names a dataclass of
    another module. The caller checks that such a dataclass is, say, a schedule.

    An argument is a Python literal, a name in `values`, a call of a function in `values`, or
    another form. Where the field's type is a Literal of texts, the text needs no quotes:
    `ConstantRate(v_x, coordinate=logsnr)`.

    Arguments:
        text: the form.
        module: where the dataclasses are looked up: one module, or several. The first one that
            has the name is used.
        values: name -> object. An example is the measured rates of a model. Messages leave out
            names that start with _.
        role: the class that is wanted, such as `Schedule`. A dataclass of this package that does
            not derive from it is refused. The caller checks a user's class.

    Returns:
        An instance of the dataclass, or the object in `values` that `text` names.

    Raises:
        ValueError: wrong syntax, or arguments that the dataclass refuses.
        UnknownName: a `ValueError` whose message has the names that can stand there.
    """
    text, rooms = text.strip(), module if isinstance(module, tuple) else (module,)
    try:
        return _built(text, rooms, values or {}, Any if role is None else role)
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"cannot read {text[:60]!r}...: it is nested too deeply") from error
    except ValueError as error:
        if "\n" in str(error):  # of a text that stands in the form
            raise ValueError(" ".join(str(error).split())) from error
        raise


def _built(text: str, rooms: Rooms, values: Mapping[str, Any], place: Any) -> Any:
    name, _, rest = text.partition("(")
    if ":" in name:
        path, _, name = name.rpartition(":")
        theirs = _import(path)
        _lookup(name, (theirs,), {}, Any)  # a class of `rooms` must not stand in for a missing one
        rooms, text = (theirs, *rooms), name + (f"({rest}" if rest else "")
    elif keyword.iskeyword(name) and rest:
        text = f"{name}_({rest}"  # Python cannot parse `is(10)`; an underscore does not matter
    elif re.fullmatch(r"[\w-]+", name) and rest:
        text = name.replace("-", "_") + f"({rest}"  # Python cannot parse `dpm-pp-2m(...)`
    if not rest and text not in values:
        return _make(_lookup(text, rooms, values, place), [], {})
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:  # ValueError: it has a null character
        raise ValueError(f"cannot read {text!r}: write it as Name(field=value, ...)") from error
    return _value(tree, rooms, values, place)


def attribute(text: str) -> Any:
    """The object that `module:name` names.

    Raises:
        ValueError: no such module, or no such name in it.
    """
    path, _, name = text.rpartition(":")
    module = _import(path)
    if not hasattr(module, name):
        raise ValueError(f"module {path} has no {name!r}{nearest(name, vars(module))}")
    return getattr(module, name)


def _import(path: str) -> ModuleType:
    folder, file = Path.cwd(), Path(path)  # a user's module is a file in the working folder
    if file.suffix == ".py":
        if not file.is_file():
            raise ValueError(f"there is no file {path}; check the path")
        folder, path = file.resolve().parent, file.stem
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(path)
    except (ModuleNotFoundError, TypeError, ValueError) as error:
        if not isinstance(error, ModuleNotFoundError) or (error.name or path) == path:
            raise ValueError(f"no module {path!r} ({error}): work in the folder that holds "
                             f"{path}.py, or install it") from error  # fmt: skip
        raise ValueError(f"module {path} cannot be imported: {place_of(error)}") from error
    except Exception as error:  # a user's module may raise anything
        raise ValueError(f"module {path} cannot be imported: {place_of(error)}") from error


def from_here(error: BaseException) -> bool:
    """Whether this package raised an error, so that its message needs no place."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(_PACKAGE)


def place_of(error: BaseException) -> str:
    """An error of a user's code in one line: kind, message, file and line."""
    frames = [one for one in traceback.extract_tb(error.__traceback__)
              if not one.filename.startswith((_PACKAGE, "<frozen"))]  # fmt: skip
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        where = f" ({Path(error.filename or '').name}, line {error.lineno})"
    text = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}{where}"


def _value(node: ast.expr, rooms: Rooms, values: Mapping[str, Any], place: Any) -> Any:
    """The object that a parsed argument describes. place: the type of what may stand there."""
    if isinstance(node, ast.Dict):
        return _dict(node, rooms, values, place)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _called(node, node.func.id, rooms, values, place)
    if isinstance(node, ast.Name):
        return _named(node.id, rooms, values, place)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{ast.unparse(node)!r} is neither a literal nor a known form") from error


def _dict(node: ast.Dict, rooms: Rooms, values: Mapping[str, Any], place: Any) -> dict[Any, Any]:
    if not all(isinstance(key, ast.Name | ast.Constant) for key in node.keys):
        raise ValueError(f"{ast.unparse(node)!r}: the keys of a literal {{key: value}} are names")
    maps = [one for one in _parts(place) if typing.get_origin(one) in (dict, Mapping)]
    of_keys, of_values = typing.get_args(maps[0]) if maps else (Any, Any)
    pairs = zip(node.keys, node.values, strict=True)
    return {_value(k, rooms, values, of_keys): _value(v, rooms, values, of_values)
            for k, v in pairs if k}  # fmt: skip


def _called(node: ast.Call, name: str, rooms: Rooms, values: Mapping[str, Any], place: Any) -> Any:
    """A function of `values`, or a dataclass, called with the arguments that are written."""
    if any(one.arg is None for one in node.keywords):
        raise ValueError(f"{ast.unparse(node)!r}: write each parameter as name=value")
    if len({one.arg for one in node.keywords}) < len(node.keywords):
        raise ValueError(f"{ast.unparse(node)!r} has two values of one parameter")
    function = values.get(name)
    kind = None if callable(function) else _lookup(name, rooms, values, place)
    what = typing.cast(Callable[..., Any], kind or function)
    places = _places(what)
    order = [*places.values(), *[Any] * len(node.args)]
    positional = [_value(arg, rooms, values, order[i]) for i, arg in enumerate(node.args)]
    named = {str(k.arg): _value(k.value, rooms, values, places.get(str(k.arg), Any))
             for k in node.keywords}  # fmt: skip
    if kind is None:
        _bind(what, positional, named)
        return what(*positional, **named)
    return _make(kind, positional, named)


def _named(name: str, rooms: Rooms, values: Mapping[str, Any], place: Any) -> Any:
    """The object of a bare name: a text of the field, an object of `values`, or a dataclass."""
    texts = _texts(place)
    if name in texts:
        return name
    if texts and not _roles(place):
        raise ValueError(f"unknown text {name!r}{nearest(name, texts)}")
    if name in values:
        return values[name]
    return _make(_lookup(name, rooms, values, place), [], {})


def _places(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameter of a dataclass or a function -> its type, in order."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # of a user's class
        hints = {}
    if isinstance(function, type):
        names = [one.name for one in dataclasses.fields(function) if one.init]
        written = {one.name: one.type for one in dataclasses.fields(function)}
    else:
        names, written = list(inspect.signature(function).parameters), {}
    return {name: hints.get(name, written.get(name, Any)) for name in names}


def _parts(place: Any) -> list[Any]:
    """The members of a union; of another type the type itself."""
    if typing.get_origin(place) in (typing.Union, types.UnionType):
        return [part for one in typing.get_args(place) for part in _parts(one)]
    return [place]


def _texts(place: Any) -> list[str]:
    """The texts that a type allows."""
    return [text for part in _parts(place) if typing.get_origin(part) is typing.Literal
            for text in typing.get_args(part) if isinstance(text, str)]  # fmt: skip


def _roles(place: Any) -> tuple[type, ...] | None:
    """The classes that a type allows, without Python's own, such as float. None: any class."""
    found = [typing.get_origin(part) or part for part in _parts(place)]
    found = [part for part in found if part is not typing.Literal]
    for part in found:
        if part in (Any, object) or not isinstance(part, type):
            return None
        if typing.Protocol in part.__bases__:  # type: ignore[comparison-overlap]
            return None
    return tuple(part for part in found if part.__module__ not in ("builtins", "collections.abc"))


def _known(rooms: Rooms) -> dict[str, type]:
    """Folded name -> dataclass.

    A class also answers to its class variables `written`, the name that the documentation writes,
    `recorded`, the name in records, and `name`.
    """
    known = {key: kind for room in reversed(rooms) for key, kind in public(room).items()}
    labels = {vars(kind).get(label): kind
              for kind in known.values() for label in ("name", "recorded", "written")}  # fmt: skip
    folded = {_fold(key): kind for key, kind in known.items()}
    return folded | {_fold(label): kind for label, kind in labels.items() if isinstance(label, str)}


def _spelt(kind: type) -> str:
    """The name of a dataclass as the documentation and --help write it."""
    from bench.types import Metric  # here, so that `docs` does not import numpy

    name = vars(kind).get("name") if issubclass(kind, Metric) else None
    return str(vars(kind).get("written") or (name if isinstance(name, str) else kind.__name__))


def called(name: str, *rooms: ModuleType) -> type | None:
    """The dataclass that answers to a name, or None."""
    return _known(rooms).get(_fold(name))


def _lookup(name: str, rooms: Rooms, values: Mapping[str, Any], place: Any) -> type:
    """The dataclass of a name.

    Raises:
        UnknownName: none, or one of this package that must not stand at the place.
    """
    found, roles = called(name, *rooms), _roles(place)
    if found is None or (_is_ours(found) and roles and not issubclass(found, roles)):
        raise _unknown(name, rooms, values, place, found)
    return found


def _unknown(
    name: str, rooms: Rooms, values: Mapping[str, Any], place: Any, found: type | None
) -> UnknownName:
    """The error of a name that cannot stand at a place. found: a dataclass that does not fit."""
    roles = _roles(place)
    there = [room for room in rooms if any(_fits(kind, roles) for kind in public(room).values())]
    kinds = {key: kind for key, kind in _known(rooms).items() if _fits(kind, roles)}
    other = {key: _spelt(kind) for key, kind in kinds.items()}
    offered = [key for key, value in values.items()
               if not key.startswith("_") and _offers(value, roles)]  # fmt: skip
    shown = dict.fromkeys(_spelt(kind) for room in there for kind in public(room).values()
                          if _fits(kind, roles))  # fmt: skip
    known = [*_texts(place), *offered, *shown]
    ending = nearest(name, known, other)
    if found and roles:  # it is written well, so no other name is similar
        head = f"{name!r} is no {' or '.join(role.__name__.lower() for role in roles)}"
        ending = f" (known: {', '.join(known) or 'none'})"
    elif there and (roles is None or not offered):
        where = " or ".join(room.__name__.rpartition(".")[2] for room in there)
        head = f"no {name!r} in {where}"
    else:
        head = f"unknown name {name!r}"
        ending = ending if known or roles else f"; write a value of type {_type_name(place)}"
    return UnknownName(head + ending, name, roles or ())


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __package__


def _fits(kind: type, roles: tuple[type, ...] | None) -> bool:
    return roles is None or issubclass(kind, roles)


def _offers(value: Any, roles: tuple[type, ...] | None) -> bool:
    """Whether an object of `values`, or what a function of them gives, may stand at a place."""
    if roles is None or not inspect.isfunction(value):
        return roles is None or isinstance(value, roles)
    given = typing.get_type_hints(value).get("return", object)
    return not isinstance(given, type) or given is object or issubclass(given, roles)


def _fold(name: str) -> str:
    """`effnet-lite0`, `EffNetLite0` and `effnet_lite0` are one name."""
    return name.lower().replace("-", "").replace("_", "")


def _bind(
    function: Callable[..., Any], positional: list[Any], named: dict[str, Any]
) -> dict[str, Any]:
    """Parameter -> the argument that is given.

    Raises:
        ValueError: arguments that do not fit.
    """
    signature = inspect.signature(function)
    try:
        return signature.bind(*positional, **named).arguments
    except TypeError as error:
        why = _wrong(signature.parameters, positional, named) or str(error)
        raise ValueError(f"{function.__name__} {why} {_takes(function)}") from error


def _wrong(
    parameters: Mapping[str, inspect.Parameter], positional: list[Any], named: dict[str, Any]
) -> str:
    """What is wrong with the arguments of a call. Empty: something else."""
    known = list(parameters)
    for name in named:
        if name not in known:
            close = _close(name, known)
            return f"has no parameter {name!r}" + (f"; did you mean {close!r}?" if close else ".")
        if name in known[: len(positional)]:
            return f"has two values of {name!r}."
    if len(positional) > len(known):
        many = f"{len(known)} parameter{'' if len(known) == 1 else 's'}"
        return f"has {many}, but {len(positional)} values are given."
    needed = [name for name, one in parameters.items() if one.default is one.empty]
    left = [name for name in needed if name not in (*known[: len(positional)], *named)]
    return f"needs a value of {left[0]!r}." if left else ""


def _takes(function: Callable[..., Any]) -> str:
    """The parameters of a dataclass or a function, and their types, as a sentence."""
    places = _places(function)
    listed = ", ".join(f"{name}: {_type_name(place)}" for name, place in places.items())
    return f"It takes: {listed or 'nothing'}"


def _make(kind: type, positional: list[Any], named: dict[str, Any]) -> Any:
    given, places = _bind(kind, positional, named), _places(kind)
    try:
        for name, value in given.items():
            _check_number(name, value, places.get(name, Any), _is_ours(kind))
        return kind(*positional, **named)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{kind.__name__}: {error}. {_takes(kind)}") from error


def _check_number(name: str, value: Any, place: Any, strictly: bool) -> None:
    """TypeError: a value of another type, where a field takes a number.

    strictly: not of a user's class, which may mean more than its types say.
    """
    if place is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    wrong = strictly and (isinstance(value, bool) or not isinstance(value, int | float))
    if place is float and wrong:
        raise TypeError(f"{name} must be a number, not {value!r}")
    if place is float and isinstance(value, int) and abs(value) > 2**53:
        raise TypeError(f"{name} is too large for a whole number; write, say, 1e30")


def _type_name(place: Any) -> str:
    """A type in short: `v_x | v_eps | Measure`. Modules of classes are left out."""
    if len(parts := _parts(place)) > 1:
        return " | ".join(map(_type_name, parts))
    if typing.get_origin(place) is typing.Literal:
        return " | ".join(map(str, typing.get_args(place)))
    if place is types.NoneType:
        return "None"
    plain = isinstance(place, type) and not typing.get_args(place)
    return re.sub(r"(\w+\.)+(?=\w)", "", place.__name__ if plain else str(place))
