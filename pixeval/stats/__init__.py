"""Intervals, tests, rankings and plans for votes and scores; docs/statistics.md says which answers which question.

Every number comes with its n and, where one exists, its interval; where none exists (one item, one prompt) the bounds
are None, never NaN. Pure functions of arrays and records: no file is written and no clock is read here.
"""
