"""A checkpoint folder: config, tokenizer files, and tensors read one slice at a time."""
