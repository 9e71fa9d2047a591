"""The web panel and the courier. Its rooms are the folders; which may import which stands in tests/test_rooms.py."""
