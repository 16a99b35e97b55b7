"""The metrics, one file per family; ``pixeval.catalog`` says what each of them means."""
