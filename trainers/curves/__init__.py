"""The figures of ``docs/experiments/training_curves.md``, measured again: ``python -m trainers.curves OUT``."""
