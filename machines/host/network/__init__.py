"""Links, addresses, routes, listeners and the packet filter, asked of the kernel without a fork. Changes nothing, but for
systemd's own table that the doctor puts back.
"""
