"""What travels between peers: bounded, versioned frames and the messages in them (pure)."""
