"""What this host will ever allow, whoever asks: its policy.toml, and binds that no machine may have. Here `policy.toml` is
the example.
"""
