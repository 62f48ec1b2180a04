"""How frames travel: the `Transport` port and its adapters."""
