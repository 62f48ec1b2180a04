"""Text: tokenizers, chat templates, streamed decoding and stop strings."""
