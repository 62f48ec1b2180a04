"""The settlement of epochs: what is due around an epoch's end, for gateway, provider and creator, and doing it."""
