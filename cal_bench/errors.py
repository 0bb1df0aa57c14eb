"""What is said to the person at the keyboard when the command, a file or a name is wrong."""

import difflib
import shlex
from collections.abc import Iterable


class UserError(Exception):
    """Says what is wrong, what was expected and what to type; shown without a traceback, exit code 2."""

    in_all = False  # whether each of several processes has it


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence to append, such as " Did you mean 'chartqa'?"; empty when no known word is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" Did you mean '{by_lower[near[0]]}'?" if near else ""


def as_typed(*words: object) -> str:
    """One of our commands as a shell takes it, also where a path has spaces."""
    return shlex.join(["cal-bench", *map(str, words)])
