"""Text to objects: `Karras(rho=7)`, `ddim`, `mylab.schedules:Mine(x=3)`; never evaluates code."""

import ast
import dataclasses
import difflib
import importlib
import inspect
import keyword
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, and all known names."""
    known = list(known)
    if name.lower() == "fid" and "FrechetDistance" in known:
        return "; did you mean fd? FID is fd on inception-v3-compat"
    folded = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), folded, 1, 0.4)
    hint = f"; did you mean {folded[close[0]]}?" if close else ""
    return f"{hint} (known: {', '.join(known) or 'none'})"


def public(module: ModuleType) -> dict[str, type]:
    """The dataclasses that a module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and dataclasses.is_dataclass(value)
        and (value.__module__ + ".").startswith(module.__name__ + ".")
        and not name.startswith("_")
    }


def build(
    text: str, module: ModuleType | tuple[ModuleType, ...], values: Mapping[str, Any] | None = None
) -> Any:
    """An instance of a dataclass of `module`, or of `other.module:Name`, from its written form.

    module: one, or several that are looked through.

    Arguments are Python literals, names of `values` (rates of a model, say), calls of functions
    among those, or nested forms.
    ValueError: bad syntax, unknown name (with the nearest), arguments that the class refuses.
    """
    text = text.strip()
    name, _, rest = text.partition("(")
    if ":" in name:
        path, _, attribute = name.rpartition(":")
        module, text = _import(path), attribute + (f"({rest}" if rest else "")
    elif keyword.iskeyword(name) and rest:
        text = f"{name}_({rest}"  # `is(10)`: an underscore is no part of a name
    elif re.fullmatch(r"[\w-]+", name) and rest:
        text = name.replace("-", "_") + f"({rest}"  # `inception-v3-compat(...)` is a name too
    rooms = module if isinstance(module, tuple) else (module,)
    if not rest and text not in (values or {}):
        return _make(_lookup(text, rooms), [], {})
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot read {text!r}: write it as Name(field=value, ...)") from error
    return _value(tree, rooms, values or {})


def attribute(text: str) -> Any:
    """`module:name` of the user's; ValueError if there is no such module or name."""
    path, _, name = text.rpartition(":")
    module = _import(path)
    if not hasattr(module, name):
        raise ValueError(f"module {path} has no {name!r}{nearest(name, vars(module))}")
    return getattr(module, name)


def _import(path: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # the user's own module lies where they work
    try:
        return importlib.import_module(path)
    except (ModuleNotFoundError, TypeError, ValueError) as error:
        raise ValueError(
            f"no module {path!r} here or installed ({error}); run where {path}.py lies"
        ) from error


def _value(node: ast.expr, rooms: tuple[ModuleType, ...], values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Dict):
        if not all(isinstance(key, ast.Name | ast.Constant) for key in node.keys):
            raise ValueError(
                f"{ast.unparse(node)!r}: the keys of a literal {{key: value}} are names"
            )
        pairs = zip(node.keys, node.values, strict=True)
        return {_value(k, rooms, values): _value(v, rooms, values) for k, v in pairs if k}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        positional = [_value(arg, rooms, values) for arg in node.args]
        keyword = {str(k.arg): _value(k.value, rooms, values) for k in node.keywords}
        if callable(function := values.get(node.func.id)):
            return _call(function, positional, keyword)
        return _make(_lookup(node.func.id, rooms), positional, keyword)
    if isinstance(node, ast.Name):
        if node.id in values:
            return values[node.id]
        raise ValueError(f"unknown name {node.id!r}{nearest(node.id, values)}")
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{ast.unparse(node)!r} is neither a literal nor a known form") from error


def _lookup(name: str, rooms: tuple[ModuleType, ...]) -> type:
    known = {key: kind for room in reversed(rooms) for key, kind in public(room).items()}
    folded = {_fold(key): value for key, value in known.items()}
    labels = {label: kind for kind in known.values() if isinstance(label := _label(kind), str)}
    folded |= {_fold(label): kind for label, kind in labels.items()}
    if _fold(name) not in folded:
        kind = rooms[0].__name__.rpartition(".")[2]
        raise ValueError(f"no {name!r} in {kind}{nearest(name, known)}")
    return folded[_fold(name)]


def _label(kind: type) -> Any:
    """The class variable `written`, else `name`: another name on the command line, if any."""
    return vars(kind).get("written", vars(kind).get("name"))


def _fold(name: str) -> str:
    """`effnet-lite0`, `EffNetLite0` and `effnet_lite0` are one name."""
    return name.lower().replace("-", "").replace("_", "")


def _call(function: Callable[..., Any], positional: list[Any], keyword: dict[str, Any]) -> Any:
    try:
        inspect.signature(function).bind(*positional, **keyword)
    except TypeError as error:
        takes = ", ".join(inspect.signature(function).parameters)
        raise ValueError(f"{function.__name__} takes ({takes}); {error}") from error
    return function(*positional, **keyword)


def _make(kind: type, positional: list[Any], keyword: dict[str, Any]) -> Any:
    try:
        made = kind(*positional, **keyword)
        for one in dataclasses.fields(kind):
            value = getattr(made, one.name)
            if one.type is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise TypeError(f"{one.name} must be a whole number, not {value!r}")
        return made
    except TypeError as error:
        fields = ", ".join(
            f"{f.name}: {getattr(f.type, '__name__', f.type)}" for f in dataclasses.fields(kind)
        )
        raise ValueError(f"{kind.__name__} takes ({fields}); {error}") from error
