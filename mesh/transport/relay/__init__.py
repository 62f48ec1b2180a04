"""Being a relay for nodes behind a NAT, and being reached through one."""
