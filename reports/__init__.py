"""One self-contained HTML page about a run, with its twins: what got better, and what broke.

``arms`` names what is compared; ``score_table`` holds scores as columns; ``tables``, ``levels``, ``sets``,
``vote_test``, ``protocol`` and ``gallery`` turn records into numbers and choices, ``verdict`` numbers into words,
``report`` all of them into one value; ``ledger`` gives every number its id; ``charts`` and ``figures`` draw SVG,
``thumbnails`` and ``flaw_maps`` inline images; ``render`` and ``page/`` make the page, ``summary``, ``latex``, ``hub``
and ``leaderboard`` what stands beside it; ``build`` reads runs and writes files. ``compare``, ``watch`` (with
``checkpoints``, ``trend``, ``hacking``) and ``gate`` (with ``gate_rules``) are the same arithmetic in a terminal.
"""
