"""The engine behind ``pixeval score``: passes over images and sets, the cache, the table and the summary."""
