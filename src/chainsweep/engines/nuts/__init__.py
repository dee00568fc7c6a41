"""HMC and NUTS chains in lanes."""
