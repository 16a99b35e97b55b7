"""Errors that a user can mend: each names the file or value and the remedy; the command line exits with 2."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad usage or input. ``str(error)`` is one or two sentences: what is wrong with what, and what to do."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a misspelt name, with the closest known ones.

    Args:
        kind: what the name should be, as in "metric".
        name: what was given.
        known: every name there is.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}?" if close else f"Known: {', '.join(names)}."
    return InputError(f"unknown {kind} {name!r}. {hint}")
