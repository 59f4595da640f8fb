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


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known name that is most similar, and all known names."""
    known = list(known)
    if name.lower() == "fid" and "FrechetDistance" in known:
        return "; did you mean fd? FID is fd on inception-v3-compat"
    folded = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), folded, 1, 0.4)
    hint = f"; did you mean {folded[close[0]]}?" if close else ""
    return f"{hint} (known: {', '.join(known) or 'none'})"


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


def build(text: str, module: ModuleType | Rooms, values: Mapping[str, Any] | None = None) -> Any:
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
        values: name -> object. An example is the measured rates of a model.

    Returns:
        An instance of the dataclass, or the object in `values` that `text` names.

    Raises:
        ValueError: wrong syntax, an unknown name (the message has the most similar known name), or
            arguments that the dataclass refuses.
    """
    text, rooms = text.strip(), module if isinstance(module, tuple) else (module,)
    try:
        return _built(text, rooms, values)
    except (RecursionError, MemoryError) as error:
        raise ValueError(f"cannot read {text[:60]!r}...: it is nested too deeply") from error
    except ValueError as error:
        if "\n" in str(error):  # of a text that stands in the form
            raise ValueError(" ".join(str(error).split())) from error
        raise


def _built(text: str, rooms: Rooms, values: Mapping[str, Any] | None) -> Any:
    name, _, rest = text.partition("(")
    if ":" in name:
        path, _, name = name.rpartition(":")
        theirs = _import(path)
        _lookup(name, (theirs,))  # a class of `rooms` must not stand in for a missing one
        rooms, text = (theirs, *rooms), name + (f"({rest}" if rest else "")
    elif keyword.iskeyword(name) and rest:
        text = f"{name}_({rest}"  # Python cannot parse `is(10)`; an underscore does not matter
    elif re.fullmatch(r"[\w-]+", name) and rest:
        text = name.replace("-", "_") + f"({rest}"  # Python cannot parse `dpm-pp-2m(...)`
    if not rest and text not in (values or {}):
        return _make(_lookup(text, rooms), [], {})
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:  # ValueError: it has a null character
        raise ValueError(f"cannot read {text!r}: write it as Name(field=value, ...)") from error
    return _value(tree, rooms, values or {})


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


def _value(
    node: ast.expr, rooms: Rooms, values: Mapping[str, Any], texts: tuple[str, ...] = ()
) -> Any:
    """The object that a parsed argument describes. texts: those that the field takes unquoted."""
    if isinstance(node, ast.Dict):
        return _dict(node, rooms, values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _called(node, node.func.id, rooms, values)
    if isinstance(node, ast.Name):
        return _named(node.id, rooms, values, texts)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{ast.unparse(node)!r} is neither a literal nor a known form") from error


def _dict(node: ast.Dict, rooms: Rooms, values: Mapping[str, Any]) -> dict[Any, Any]:
    if not all(isinstance(key, ast.Name | ast.Constant) for key in node.keys):
        raise ValueError(f"{ast.unparse(node)!r}: the keys of a literal {{key: value}} are names")
    pairs = zip(node.keys, node.values, strict=True)
    return {_value(k, rooms, values): _value(v, rooms, values) for k, v in pairs if k}


def _called(node: ast.Call, name: str, rooms: Rooms, values: Mapping[str, Any]) -> Any:
    """A function of `values`, or a dataclass, called with the arguments that are written."""
    function = values.get(name)
    kind = None if callable(function) else _lookup(name, rooms)
    texts = {} if kind is None else _texts(kind)
    places = [texts.get(field, ()) for field in (_fields(kind) if kind else ())]
    places += [()] * len(node.args)
    positional = [_value(arg, rooms, values, places[i]) for i, arg in enumerate(node.args)]
    named = {str(k.arg): _value(k.value, rooms, values, texts.get(str(k.arg), ()))
             for k in node.keywords}  # fmt: skip
    if kind is None:
        return _call(typing.cast(Callable[..., Any], function), positional, named)
    return _make(kind, positional, named)


def _named(name: str, rooms: Rooms, values: Mapping[str, Any], texts: tuple[str, ...]) -> Any:
    """The object of a bare name: a text of the field, an object of `values`, or a dataclass."""
    if name in texts:
        return name
    if texts:
        raise ValueError(f"unknown text {name!r}{nearest(name, texts)}")
    if name in values:
        return values[name]
    if _fold(name) in _known(rooms):
        return _make(_lookup(name, rooms), [], {})
    raise ValueError(f"unknown name {name!r}{nearest(name, values)}")


def _fields(kind: type) -> list[str]:
    """Names of the fields that a call takes, in order."""
    return [one.name for one in dataclasses.fields(kind) if one.init]


def _hints(kind: type) -> dict[str, Any]:
    """Field -> its type. Types are not resolved where a class has one that cannot be."""
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError):  # of a user's class
        return {one.name: one.type for one in dataclasses.fields(kind)}


def _texts(kind: type) -> dict[str, tuple[str, ...]]:
    """Field -> the texts that its type, a Literal, allows. Other fields are left out."""
    found = {name: tuple(_literals(hint)) for name, hint in _hints(kind).items()}
    return {name: texts for name, texts in found.items() if texts}


def _literals(hint: Any) -> Iterable[str]:
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        yield from (one for one in typing.get_args(hint) if isinstance(one, str))
    elif origin in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _literals(part)


def _known(rooms: Rooms) -> dict[str, type]:
    """Folded name -> dataclass.

    A class also answers to its class variable `written` or, without one, `name`.
    """
    known = {key: kind for room in reversed(rooms) for key, kind in public(room).items()}
    labels = {vars(kind).get("written", vars(kind).get("name")): kind for kind in known.values()}
    folded = {_fold(key): kind for key, kind in known.items()}
    return folded | {_fold(label): kind for label, kind in labels.items() if isinstance(label, str)}


def _lookup(name: str, rooms: Rooms) -> type:
    known = _known(rooms)
    if _fold(name) not in known:
        where = " or ".join(room.__name__.rpartition(".")[2] for room in rooms)
        names = dict.fromkeys(key for room in rooms for key in public(room))
        raise ValueError(f"no {name!r} in {where}{nearest(name, names)}")
    return known[_fold(name)]


def _fold(name: str) -> str:
    """`effnet-lite0`, `EffNetLite0` and `effnet_lite0` are one name."""
    return name.lower().replace("-", "").replace("_", "")


def _call(function: Callable[..., Any], positional: list[Any], named: dict[str, Any]) -> Any:
    try:
        inspect.signature(function).bind(*positional, **named)
    except TypeError as error:
        takes = ", ".join(inspect.signature(function).parameters)
        raise ValueError(f"{function.__name__} takes ({takes}); {error}") from error
    return function(*positional, **named)


def _make(kind: type, positional: list[Any], named: dict[str, Any]) -> Any:
    try:
        made, hints = kind(*positional, **named), _hints(kind)
        for one in dataclasses.fields(kind):
            value = getattr(made, one.name)
            if hints[one.name] is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{one.name} must be a whole number, not {value!r}")
            if hints[one.name] is float and isinstance(value, bool):
                raise TypeError(f"{one.name} must be a number, not {value!r}")
            if hints[one.name] is float and isinstance(value, int) and abs(value) > 2**53:
                raise TypeError(f"{one.name} is too large for a whole number; write, say, 1e30")
        return made
    except (TypeError, OverflowError) as error:
        texts, hints = _texts(kind), _hints(kind)
        fields = ", ".join(
            f"{one.name}: {' | '.join(texts.get(one.name, ())) or _type_name(hints[one.name])}"
            for one in dataclasses.fields(kind)
        )
        raise ValueError(f"{kind.__name__} takes ({fields}); {error}") from error


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
