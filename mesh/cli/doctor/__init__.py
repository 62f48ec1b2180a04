"""`mesh doctor`: what was read of this machine, its network and its chain, and what is wrong with it."""
