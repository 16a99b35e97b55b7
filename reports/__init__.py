"""One self-contained HTML page about a run, with Markdown and JSON twins: what got better, and what broke.

``arms`` names what is compared, ``tables`` turns records into numbers, ``verdict`` numbers into words, ``figures``
numbers into SVG, ``pictures`` files into inlined images, ``build`` puts the page together; ``compare`` is the same
arithmetic for two labels in a terminal.
"""
