"""The process that holds the signing key: sends orders, takes reports, and keeps each host within its share of Redis.
Imports no page and no form.
"""
