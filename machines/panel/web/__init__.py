"""The web process around the views: sign-in and rights, how many requests and connections at once, how large, and how
views answer.
"""
