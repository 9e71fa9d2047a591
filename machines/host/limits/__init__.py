"""The limit test: a bounded load in a machine's own control group, and what the kernel did with it."""
