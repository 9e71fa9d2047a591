"""Who listens on this host: real sockets of this process, and tables as the kernel writes them."""

import os
import socket

from machines.host.network import listeners


def test_a_listener_of_ours_is_found_and_named():
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        inode = listeners.taken()["tcp", port]
        assert f"process {os.getpid()}" in listeners.who(inode)


def test_loopback_and_connections_are_left_out(tmp_path):
    head = "  sl  local_address rem_address st ...\n"
    row = "   0: {} 00000000:0000 {} 0:0 0:0 0 0 0 {}\n"
    rows = [
        ("0100007F:1F90", "0A", 1),
        ("00000000:0050", "0A", 2),
        ("00000000:0051", "01", 3),
        ("3500007F:0035", "0A", 4),
    ]
    (tmp_path / "tcp").write_text(head + "".join(row.format(a, s, i) for a, s, i in rows))
    (tmp_path / "udp6").write_text(head + row.format(f"{'0' * 32}:0035", "07", 5))
    (tmp_path / "tcp6").write_text(head + row.format("00000000000000000000000001000000:0019", "0A", 6))
    assert listeners.taken(tmp_path) == {("tcp", 80): "2", ("udp", 53): "5"}


def test_all_that_share_a_port_are_found():
    def bound(port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("", port))
        return made

    with bound(0) as one, bound(one.getsockname()[1]) as two:
        found = listeners.sharing(("udp", one.getsockname()[1]))
        assert set(found) == {str(os.fstat(each.fileno()).st_ino) for each in (one, two)}


def test_what_nobody_has_is_nobody_s():
    assert listeners.who("1") == "a program on the host"
