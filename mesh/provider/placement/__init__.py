"""When a provider that serves leaves its blocks for others."""
