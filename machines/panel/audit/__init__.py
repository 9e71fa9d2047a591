"""The history of who did what: how an entry is written, sealed, verified and, after its time, let go."""
