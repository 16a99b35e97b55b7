"""``python -m pixeval``, the same as ``pixeval``."""

from pixeval.cli import main

main()
