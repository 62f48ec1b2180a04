"""What computes a span of a model: its weights, its layers, how both are loaded."""
