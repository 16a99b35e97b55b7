"""One small file per model family; ``detect.load`` picks one from a checkpoint's ``model_index.json``."""
