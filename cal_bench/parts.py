"""Parts of a model by the names of their parameters: which a stage trains."""

from collections.abc import Iterable
from typing import Any

from cal_bench.errors import UserError, suggest

Counts = dict[str, dict[str, int]]


def prepare_parts(model: Any, trained: Iterable[str], faster_or_slower: Iterable[str] = ()) -> Counts:
    """Train the parameters whose names begin with a prefix, and no others; numbers of parameters by part of the model.

    UserError for a prefix that no parameter has, and for one with a learning rate of its own that no trained parameter has.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    prefixes = list(trained)
    _check(named, prefixes, "train: no parameter's name")
    for parameter in named.values():
        parameter.requires_grad_(False)
    for name, parameter in named.items():
        if any(under(name, prefix) for prefix in prefixes):
            parameter.requires_grad_(True)
    _check(
        [name for name, parameter in named.items() if parameter.requires_grad], faster_or_slower, "learning_rate_factors: no trained name"
    )
    counts: Counts = {"trainable": {}, "frozen": {}}
    for name, parameter in model.named_parameters():
        part, kind = _part(name), "trainable" if parameter.requires_grad else "frozen"
        counts[kind][part] = counts[kind].get(part, 0) + _size(parameter)
    return counts


def _size(parameter: Any) -> int:
    """Its numbers; of one that ZeRO-3 has shared out, all of them."""
    size: int = parameter.ds_numel if hasattr(parameter, "ds_numel") else parameter.numel()
    return size


def describe(counts: Counts) -> str:
    """The numbers for people."""
    kinds = [f"{kind} {', '.join(f'{part} {number:,}' for part, number in parts.items()) or 'nothing'}" for kind, parts in counts.items()]
    return f"Parameters: {'; '.join(kinds)}"


def under(name: str, prefix: str) -> bool:
    """Whether a parameter belongs to the part with this name."""
    return name == prefix or name.startswith(f"{prefix}.")


def _part(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _check(names: Iterable[str], prefixes: Iterable[str], problem: str) -> None:
    known = list(names)
    for prefix in prefixes:
        if not any(under(name, prefix) for name in known):
            parts = {_part(name) for name in known}
            raise UserError(f"{problem} begins with '{prefix}'.{suggest(prefix, parts)} Parts: {', '.join(sorted(parts))}.")
