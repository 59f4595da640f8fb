"""`spec()`: what a schedule, sampler, measure, metric or extractor is, as JSON."""

import dataclasses
import hashlib
import json
from typing import Any, ClassVar

_HOME = "bench."


class Described:
    """Anything whose class and fields say what it is.

    version: raise it when the class computes something else from the same fields, or when a
    default changes. Old records then keep their meaning.
    """

    version: ClassVar[int] = 1

    def spec(self) -> dict[str, Any]:
        """The class and its fields as JSON.

        Fields that have their default value are left out, so that a new field with a default
        changes no spec. So are fields that do not compare, such as a device.

        Returns:
            {"class": "Karras", "fields": {"rho": 3.0}}, and "version" where it is not 1. The class
            of another package is written "module:Name".

        Raises:
            TypeError: a field that JSON cannot hold.
        """
        kind = type(self)
        name = kind.__name__ if kind.__module__.startswith(_HOME) else _elsewhere(kind)
        fields = {}
        for field in dataclasses.fields(self) if dataclasses.is_dataclass(self) else ():
            value = vars(self)[field.name]
            if field.compare and not _is_default(value, field):
                fields[field.name] = _json(value, f"{name}.{field.name}")
        version = {} if self.version == 1 else {"version": self.version}
        return {"class": name, "fields": fields} | version


def _elsewhere(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


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
    raise TypeError(f"{where} is a {type(value).__name__}, which a record cannot hold; "
                    "use numbers, text, tuples or other schedules, samplers, ...")  # fmt: skip


def digest(content: Any) -> str:
    """SHA-256 of the canonical JSON of `content`, first 20 hex digits: an identity.

    Raises:
        ValueError: NaN or infinity in the content.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
