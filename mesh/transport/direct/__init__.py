"""The direct transport: TLS 1.3 between peers that can dial each other, with certificates of libp2p identities."""
