"""Training the bundled models from scratch: data, the small loop, one module per model."""
