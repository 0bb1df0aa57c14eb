"""Texts that know which of their words depend on the picture: {visual}, and <invented> ones that contradict it."""

import re
from dataclasses import dataclass

_MARK = re.compile(r"\{([^{}]*)\}|<([^<>]*)>")


@dataclass(frozen=True)
class Span:
    start: int
    end: int
    kind: str  # "visual" or "invented"


@dataclass(frozen=True)
class Text:
    plain: str
    spans: tuple[Span, ...]


def parse(marked: str) -> Text:
    """Take the marks out and say where they were, in characters of the plain text."""
    plain, spans, at = "", [], 0
    for match in _MARK.finditer(marked):
        plain += marked[at : match.start()]
        inner = match.group(1) if match.group(1) is not None else match.group(2)
        spans.append(Span(len(plain), len(plain) + len(inner), "visual" if match.group(1) is not None else "invented"))
        plain, at = plain + inner, match.end()
    return Text(plain + marked[at:], tuple(spans))
