"""What this host has taken on and what it says: the ledger, written before anything is done, and numbered, signed reports
that wait in it until they are published.
"""
