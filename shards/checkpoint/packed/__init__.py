"""Quantised safetensors checkpoints, AWQ, GPTQ, FP8 and compressed-tensors, read exactly."""
