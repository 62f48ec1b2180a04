"""The transport without the Go daemon: libp2p's TCP, Noise, yamux and multistream-select, in this process."""
