"""The host itself, as every other room uses it: the one place that starts other programs, the one connection to the bus, guarded
reads of paths that others can shape, the host's paths, faults. Knows nothing of machines.
"""
