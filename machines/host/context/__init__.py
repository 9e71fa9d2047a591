"""What every handler needs of the host it runs on: settings and keys, the bus, the output of the job, faults that are told
with each heartbeat.
"""
