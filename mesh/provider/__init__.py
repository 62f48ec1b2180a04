"""The provider's side of a session: admission, the ring, files."""
