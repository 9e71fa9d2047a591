"""A machine's own bus, asked by whoever must not trust it: real sockets, and answers as systemd gives them or does not."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from dbus_fast import Message, MessageType, Variant

from machines.host.context import guest_bus
from machines.host.context.guest_bus import Guest

OK = b"DATA\r\nOK 0123\r\n"
UNIT = ["x.service", "X", "loaded", "failed", "failed", "", "/org/x", 0, "", "/"]


def answer(serial: int, signature: str, *body: object, kind: MessageType = MessageType.METHOD_RETURN) -> bytes:
    said = Message(
        message_type=kind, reply_serial=serial, sender=":1.1", destination=":1.2", signature=signature, body=list(body), serial=9,
        **({"error_name": "org.x.No"} if kind is MessageType.ERROR else {}),
    )  # fmt: skip
    return bytes(said._marshall(False))


def says(root: Path, talk: Callable[[socket.socket], None]) -> Guest:
    """What comes of asking a machine whose bus talks like that."""
    place = root / guest_bus.SOCKET
    place.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(place))
        door.listen(1)

        def serve() -> None:
            line, _ = door.accept()
            with line, contextlib.suppress(OSError):  # whoever asks may have heard enough
                line.recv(4096)
                talk(line)

        threading.Thread(target=serve, daemon=True).start()
        return ask(root)


def ask(root: Path) -> Guest:
    try:
        return guest_bus._ask(root)
    except guest_bus.UNKNOWN:
        return Guest()


def test_it_says_how_it_is_and_which_units_have_failed(tmp_path):
    units = [UNIT, ["y.mount", *UNIT[1:]]]
    signal = Message(
        message_type=MessageType.SIGNAL, path="/", interface="org.x", member="M", signature="s", body=["x"], serial=3
    )
    talk = OK + answer(1, "s", ":1.2") + bytes(signal._marshall(False)) + answer(2, "v", Variant("s", "degraded"))
    talk += answer(3, "a(ssssssouso)", units)
    assert says(tmp_path, lambda line: line.sendall(talk)) == Guest("degraded", ("x.service", "y.mount"))


def test_in_small_pieces_it_says_the_same(tmp_path):
    talk = OK + answer(1, "s", ":1.2") + answer(2, "v", Variant("s", "running")) + answer(3, "a(ssssssouso)", [])

    def piecemeal(line: socket.socket) -> None:
        for byte in talk:
            line.sendall(bytes([byte]))

    assert says(tmp_path, piecemeal) == Guest("running")


def test_what_it_may_not_be_asked_is_left_out(tmp_path):
    talk = OK + answer(1, "s", ":1.2") + answer(2, "v", Variant("s", "running"))
    talk += answer(3, "s", "no", kind=MessageType.ERROR)
    assert says(tmp_path, lambda line: line.sendall(talk)) == Guest("running")


@pytest.mark.parametrize(
    "talk",
    [
        b"",
        b"REJECTED\r\n",
        b"x" * 5000,
        OK + b"l\2\1\1" + b"\xff" * 12,
        OK + b"B\2\1\1" + b"\0" * 12,
        OK + answer(2, "v", Variant("s", "degraded"))[:-3],
        OK + answer(2, "u", 7) + answer(3, "u", 2**32 - 1),
        OK + b"l\4\1\1\0\0\0\0\1\0\0\0\0\0\0\0" * 100_000,
    ],
    ids=["nothing", "access denied", "no line", "endless", "other order", "half", "other types", "flood"],
)
def test_whatever_else_it_says_is_nothing_known(tmp_path, talk):
    assert says(tmp_path, lambda line: line.sendall(talk)).state == ""


def test_a_bus_that_says_nothing_is_not_waited_for(tmp_path):
    assert says(tmp_path, lambda line: line.recv(1)) == Guest()


def test_what_is_no_socket_or_leads_out_of_the_machine_is_not_asked(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    (root / "run/dbus").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(outside / "bus"))
        door.listen(1)
        (root / guest_bus.SOCKET).symlink_to(outside / "bus")
        assert ask(root) == Guest()
        door.settimeout(0)
        with pytest.raises(BlockingIOError):
            door.accept()
    (root / guest_bus.SOCKET).unlink()
    (root / guest_bus.SOCKET).write_text("no socket")
    assert ask(root) == Guest()
    assert guest_bus.ask(2**22 + 1) == Guest()
