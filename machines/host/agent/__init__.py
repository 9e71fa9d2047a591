"""The worker: takes messages out of the queue, verifies and writes down the order, carries it out or starts a unit that
does, follows that unit, cleans up after the ones that were killed. `handlers.py` is the table of what runs what.
"""
