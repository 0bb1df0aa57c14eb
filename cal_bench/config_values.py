"""From what YAML holds to the dataclasses of a config, with everything that is wrong with it told at once."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cal_bench.errors import UserError, suggest

T = TypeVar("T")


@dataclass
class Problems:
    """Everything that is wrong with one config, gathered while it is read."""

    found: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        """Note one, with the key that it is about."""
        self.found.append(f"{where}: {what}" if where else what)


def unknown_keys(raw: Mapping[str, Any], known: list[str], where: str, problems: Problems) -> None:
    """A problem for every key that nothing reads."""
    for key in raw:
        if key not in known:
            problems.add(where, f"there is no key '{key}'.{suggest(str(key), known)} The keys are {', '.join(known)}.")


def read_mapping(kind: type[T], raw: Any, where: str, problems: Problems, given: Mapping[str, Any] | None = None) -> T | None:
    """A dataclass from a mapping, or None and one problem per thing that is wrong with it; `given` fields are not read."""
    fields = {known.name: known for known in dataclasses.fields(kind) if known.name not in (given or {})}  # type: ignore[arg-type]
    if not isinstance(raw, dict):
        problems.add(where, f"expected a mapping with the keys {', '.join(fields)}, got {raw!r}")
        return None
    before = len(problems.found)
    unknown_keys(raw, list(fields), where, problems)
    types = get_type_hints(kind)
    values = {key: read_value(types[key], value, f"{where}.{key}", problems) for key, value in raw.items() if key in fields}
    for name, known in fields.items():
        needed = known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING
        if needed and name not in raw:
            problems.add(f"{where}.{name}", "is missing")
    if len(problems.found) > before:
        return None
    try:
        return kind(**values, **(given or {}))
    except (ValueError, UserError) as error:
        problems.add(where, str(error))
        return None


def read_value(kind: Any, raw: Any, where: str, problems: Problems) -> Any:
    """`raw` as the type that the field declares: str, int, float, bool, a choice, a tuple of one of them, or None where allowed."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal and raw in inner:
        return raw
    if origin is tuple and isinstance(raw, list):
        return tuple(read_value(inner[0], entry, where, problems) for entry in raw)
    if origin is dict and isinstance(raw, dict):
        return {str(key): read_value(inner[1], entry, f"{where}.{key}", problems) for key, entry in raw.items()}
    if NoneType in inner:
        rest = [option for option in inner if option is not NoneType]
        return None if raw is None else read_value(Union[tuple(rest)], raw, where, problems)  # noqa: UP007
    if origin in (Union, UnionType):
        one, several = inner  # as in str | tuple[str, ...]
        return read_value(several if isinstance(raw, list) else one, raw, where, problems)
    # YAML 1.1 reads 1e-3, which has no dot, as text.
    if kind is float and not isinstance(raw, bool):
        try:
            return float(raw)
        except (TypeError, ValueError):
            pass
    elif isinstance(kind, type) and isinstance(raw, kind) and (kind is bool or not isinstance(raw, bool)):
        return raw
    problems.add(where, f"expected {_describe(kind)}, got {raw!r}")
    return None


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if get_origin(kind) is dict:
        return f"a mapping of names to {_describe(get_args(kind)[1])}"
    if get_origin(kind) is tuple:
        return f"a list of {_describe(get_args(kind)[0])}"
    named: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    return named[kind]
