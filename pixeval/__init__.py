"""Score text-to-image models, collect preferences, post-train in pixel space, score again, report.

Where things are: ``records`` and ``protocols`` hold the nouns, ``runs`` the folder on disk, ``generate``,
``evaluate`` and ``pairs`` the steps of the loop, ``metrics`` the scores, ``zoo`` the bundled models,
``cli`` the one command.
"""

__version__ = "0.1.0"
