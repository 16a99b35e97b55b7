"""Learned rewards: training, calibration and adapters of published preference models (not built yet)."""
