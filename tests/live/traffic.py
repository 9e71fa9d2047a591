"""Two machines on a host and somebody outside it, and packets between them: what the doctor says is held against these."""

from collections.abc import Sequence
from ipaddress import IPv4Interface

from machines.contract import orders
from tests.host.scratch_panel import ScratchPanel
from tests.person import until

PORT = 7000
OUTSIDE, GATE = "10.99.0.2", "10.99.0.1"  # somebody beyond the host, and the host's address towards them
_TOOL = """
import socket, sys
if sys.argv[1] == "listen":
    server = socket.create_server(("0.0.0.0", int(sys.argv[2])))
    while True:
        other, address = server.accept()
        other.sendall(f"{sys.argv[3]} {address[0]}".encode())
        other.close()
try:
    print(socket.create_connection((sys.argv[2], int(sys.argv[3])), 1.5).recv(99).decode())
except OSError as error:
    print("nothing", type(error).__name__)
"""


class Traffic:
    """The machines `left` and `right`. `talk` is a connection; its answer is who answered and whom that one saw."""

    names = ("left", "right")
    nowhere = ("nsenter", "--target=", "--net")  # inside() of what does not run

    def __init__(self, panel: ScratchPanel) -> None:
        self.panel, self.host = panel, panel.sandbox
        self._listeners: list[str] = []
        self.host.write("/root/talk.py", _TOOL)
        for name in self.names:
            self.host.plant(name, "bookworm")
        self.ip("netns", "add", "outside")
        self.ip("link", "add", "gate", "type", "veth", "peer", "name", "out0", "netns", "outside")
        self.ip("address", "add", f"{GATE}/24", "dev", "gate")
        self.ip("link", "set", "gate", "up")
        for words in (
            ["address", "add", f"{OUTSIDE}/24", "dev", "out0"],
            ["link", "set", "out0", "up"],
            ["link", "set", "lo", "up"],
        ):
            self.ip("-n", "outside", *words)
        self.listen("outside", ["ip", "netns", "exec", "outside"])
        self.listen("host", [])

    def close(self) -> None:
        self.stop()
        for unit in self._listeners:
            self.host.run(["systemctl", "stop", unit], check=False)
        self.ip("link", "delete", "gate")
        self.ip("netns", "delete", "outside")
        for name in self.names:
            self.host.run(["machinectl", "remove", name])

    def ip(self, *words: str) -> None:
        self.host.run(["ip", *words])

    def listen(self, who: str, way: Sequence[str]) -> None:
        unit = f"listen-{who}.service"
        self.host.run(["systemctl", "stop", unit], check=False)
        self.host.run(["systemd-run", "--quiet", "--collect", f"--unit={unit}", *way, "python3", "/root/talk.py", "listen", str(PORT), who])  # fmt: skip
        self._listeners.append(unit)

    # --- machines

    def start(self, settings: str = "") -> None:
        """Both anew, with these lines under [Network]; {n} is 1 and 2."""
        self.stop()
        for number, name in enumerate(self.names, 1):
            self.host.write(
                f"/etc/systemd/nspawn/{name}.nspawn", f"[Network]\n{settings}\n".replace("{n}", str(number))
            )
        for name in self.names:
            ended = self.panel.do(orders.Start(name=name))
            assert ended.state == "succeeded", ended.problem
            self.listen(name, self.inside(name))

    def stop(self) -> None:
        for name in self.names:
            self.host.run(["machinectl", "terminate", name], check=False)
        until(lambda: not self.host.run(["machinectl", "list", "--no-legend"]).stdout.strip(), 20)
        for name in self.names:
            self.host.run(["rm", "-f", f"/etc/systemd/nspawn/{name}.nspawn"])

    def inside(self, name: str) -> tuple[str, ...]:
        """Words that put a command into a machine's network."""
        shown = self.host.run(["machinectl", "show", "--property=Leader", "--value", name], check=False)
        return ("nsenter", f"--target={shown.stdout.strip()}", "--net")

    def addresses(self, name: str, link: str = "host0") -> list[str]:
        """Its IPv4 addresses there, the newest last, link-local ones left out."""
        said = self.host.run([*self.inside(name), "ip", "-4", "-oneline", "address", "show", "dev", link]).stdout
        found = [IPv4Interface(line.split()[3]).ip for line in said.splitlines()]
        return [str(ip) for ip in found if not ip.is_link_local]

    def addressed(self) -> list[str]:
        """The first address of each, once both have one."""
        until(lambda: all(self.addresses(name) for name in self.names), 40)
        return [self.addresses(name)[0] for name in self.names]

    def set_address(self, name: str, address: str, link: str = "host0") -> None:
        for words in (["address", "add", address, "dev", link], ["link", "set", link, "up"]):
            self.host.run([*self.inside(name), "ip", *words])

    # --- packets

    def talk(self, to: str, port: int = PORT, way: Sequence[str] = ()) -> str:
        return self.host.run([*way, "python3", "/root/talk.py", "talk", to, str(port)]).stdout.strip()

    def talk_from(self, name: str, to: str, port: int = PORT) -> str:
        return self.talk(to, port, self.inside(name))

    def talk_from_outside(self, to: str, port: int = PORT) -> str:
        return self.talk(to, port, ["ip", "netns", "exec", "outside"])
