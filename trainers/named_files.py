"""Files that data name: names in tables and metadata are other people's text, and must not reach beyond a folder."""

import os
from pathlib import Path


def file_within(folder: Path, name: str) -> Path | str:
    """The place of the file called ``name`` in ``folder`` or below it, or the reason why there is none.

    The name alone is judged: it must not be absolute, have a drive, or go up by ``..``. Links within the folder are
    followed wherever they lead, for they are its owner's: a snapshot in the hub's cache is links into its blobs.
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return "is no name that a file can have"
    if not name or "\0" in name:
        return "is no name that a file can have"
    path = Path(name)
    return "lies outside the folder" if path.anchor or ".." in path.parts else folder / path
