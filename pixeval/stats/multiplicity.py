"""Several tests at once."""

from collections.abc import Hashable, Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values of one family, in the order given.

    Below a level in every adjusted p keeps the chance of any false claim within the family below that level, whatever
    the dependence of the tests.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def holm_within(p_values: Sequence[float], families: Sequence[Hashable]) -> list[float]:
    """:func:`holm` within each declared family, in the order given.

    A family is what is claimed together; declare it before looking at the data. ``families`` names that of each test.
    """
    adjusted = [1.0] * len(p_values)
    for family in dict.fromkeys(families):
        members = [i for i, other in enumerate(families) if other == family]
        for index, p in zip(members, holm([p_values[i] for i in members]), strict=True):
            adjusted[index] = p
    return adjusted
