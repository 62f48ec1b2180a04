"""The OpenAI-compatible HTTP gateway over the client library."""
