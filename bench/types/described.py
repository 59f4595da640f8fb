"""`spec()`: what a schedule, sampler, measure, metric or extractor is, as JSON."""

import dataclasses
from typing import Any, ClassVar

_HOME = "bench."


class Described:
    """Anything whose class and fields say what it is.

    version: raise it when the class computes something else from the same fields, or when a
        default changes. Old records then keep their meaning.
    shown: fields that labels show even where they have their default value.
    """

    version: ClassVar[int] = 1
    shown: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """The class with the fields that differ from their defaults, as tables print it."""
        fields = dict.fromkeys([*self.shown, *self.spec()["fields"]])
        parts = [_part(name, vars(self)[name]) for name in fields]
        return type(self).__name__ + (f"({', '.join(parts)})" if parts else "")

    def spec(self) -> dict[str, Any]:
        """The class and its fields as JSON.

        Fields that have their default value are left out, so that a new field with a default
        changes no spec. So are fields that do not compare, such as a device.

        Returns:
            {"class": "Karras", "fields": {"rho": 3.0}}, and "version" where it is not 1. The class
            of another package is written "module:Name".

        Raises:
            ValueError: a field that JSON cannot hold.
        """
        kind = type(self)
        elsewhere = f"{kind.__module__}:{kind.__qualname__}"
        name = kind.__name__ if kind.__module__.startswith(_HOME) else elsewhere
        fields: dict[str, Any] = {}
        known = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        field: dataclasses.Field[Any]
        for field in known:
            value = vars(self)[field.name]
            if field.compare and not _is_default(value, field):
                fields[field.name] = _json(value, f"{name}.{field.name}")
        version = {} if self.version == 1 else {"version": self.version}
        return {"class": name, "fields": fields} | version


def _is_default(value: Any, field: "dataclasses.Field[Any]") -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default)
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return False


def _json(value: Any, where: str) -> Any:
    if isinstance(value, Described):
        return value.spec()
    if isinstance(value, tuple | list):
        return [_json(one, where) for one in value]
    if isinstance(value, dict):
        return {str(key): _json(one, where) for key, one in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{where} is a {type(value).__name__}, which a record cannot hold; "
                    "use numbers, text, tuples or other schedules, samplers, ...")  # fmt: skip


def _part(name: str, value: Any) -> str:
    """A field of a label; the name of one that is itself a schedule, sampler, ... is left out."""
    return value.label if isinstance(value, Described) else f"{name}={_text(value)}"


def label_of(spec: dict[str, Any]) -> str:
    """A spec as text: `Karras(rho=3)`; of a measurement its name."""
    fields = dict(spec["fields"])
    if "digest" in fields:
        return str(fields["name"])
    parts = [_text(value) if _is_spec(value) else f"{name}={_text(value)}"
             for name, value in fields.items()]  # fmt: skip
    name = str(spec["class"]).rpartition(":")[2]
    return f"{name}({', '.join(parts)})" if parts else name


def written(value: Any) -> str:
    """A spec, or a value in one, as the command line takes it: `Karras(rho=3.0)`."""
    if _is_spec(value):
        fields = value["fields"]
        if "digest" in fields:
            return str(fields["name"])
        parts = [f"{name}={written(part)}" for name, part in fields.items()]
        return str(value["class"]) + (f"({', '.join(parts)})" if parts else "")
    if isinstance(value, list):
        return f"({''.join(written(one) + ', ' for one in value).rstrip()})"
    return value if isinstance(value, str) and value.isidentifier() else repr(value)


def _is_spec(value: Any) -> bool:
    return isinstance(value, dict) and "class" in value


def _text(value: Any) -> str:
    if _is_spec(value):
        return label_of(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_text, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)
