"""The worker of a host, which runs as root: takes signed orders, carries them out with systemd's own tools, and reports.
Its rooms are the folders; which may import which stands in tests/test_rooms.py."""
