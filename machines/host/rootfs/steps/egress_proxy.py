"""The only way out of a pull: a network of its own that holds nothing, and one listener in it, which is here.

The puller runs in an empty network namespace, so the kernel lets it reach this listener and nothing else, wherever redirects
and name servers send it. It is an HTTP proxy on that namespace's loopback: it looks a name up once, judges every
address by the host's policy (contract/configuration/egress_rules.py), and connects to the very address it has judged. Nothing is looked up a
second time, so there is nothing to change in between; TLS goes through as it is.

IPAddressDeny= was tried (systemd 252 and 257) and not taken. It drops packets without a word, so what is refused hangs until
it is out of time; it cannot tell a name server on the loopback from an image there; and where a kernel has no such filter,
systemd goes on without it and says so in its journal only.

Facts: libcurl, and so systemd's puller, takes http_proxy and https_proxy; it keeps a connection to a proxy and sends what
is for another server down the same one, so each of ours carries one request and is closed. A socket belongs to the
namespace it was made in, whoever accepts from it.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import selectors
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed leaves it out

from machines.contract.configuration import egress_rules
from machines.contract.problems import NotAllowed, Problem
from machines.host.system.run import environment

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
HEAD = 64 * 1024  # bytes of a request's or an answer's head
AT_ONCE = 16  # connections; the puller makes four
SECONDS = 30.0  # for one connection to be made, or one head to come
QUIET = 300.0  # without a byte
_PIECE = 256 * 1024
_HOP = re.compile(rb"\r\n(?:Connection|Proxy-Connection|Keep-Alive|Proxy-Authorization):[^\r\n]*", re.IGNORECASE)

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class EgressProxy:
    """An open proxy. `command` puts a program behind it; `refused` is what it asked for and did not get."""

    rules: Sequence[str]
    namespace: int
    port: int
    asked: str = ""  # the name in the address of the image; every other one comes from a redirect
    refused: list[NotAllowed] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # connections that could not be made, in words

    def command(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.namespace}", "--", *argv]

    @property
    def variables(self) -> Mapping[str, str]:
        """For the program's environment: this proxy in place of whatever the host has, which this proxy uses by itself."""
        listener = f"http://127.0.0.1:{self.port}"
        names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
        return {**dict.fromkeys(names, listener), "no_proxy": "", "NO_PROXY": ""}

    def connect(self, scheme: str, name: str, port: int) -> tuple[socket.socket, bool]:
        """A connection to where the policy allows, and whether it is to the host's own proxy. Raises NotAllowed, OSError."""
        proxy = _proxy(scheme, name, port)
        try:
            return (self._connect_to(name, port), False) if proxy is None else (self._by(proxy, name), True)
        except OSError as error:
            where = f"{name}, port {port}" if proxy is None else f"this host's proxy {proxy}"
            self.failures.append(f"{where}: {error.strerror or error}")
            raise

    def _by(self, proxy: str, name: str) -> socket.socket:
        # What a name is, only the proxy knows; its administrator is this host's. Numbers are judged here all the same.
        if number := egress_rules.literal(f"//{_bracketed(name)}"):
            self._judge(name, str(number))
        parts = urlsplit(proxy)
        return socket.create_connection((parts.hostname or "", parts.port or 80), SECONDS)

    def _connect_to(self, name: str, port: int) -> socket.socket:
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:
            raise OSError(errno.EHOSTUNREACH, "that is not a hostname") from error
        addresses = list(dict.fromkeys(str(where[0]) for *_, where in found))
        for address in addresses:
            self._judge(name, address)  # one that is refused refuses the name: no trying which of them gets through
        failure = OSError(errno.EHOSTUNREACH, f"{name} has no address")
        for address in addresses:
            try:
                return socket.create_connection((address, port), SECONDS)
            except OSError as error:
                failure = error
        raise failure

    def _judge(self, name: str, address: str) -> None:
        found = ip_address(address.partition("%")[0])
        is_own = _is_own(address)
        if not egress_rules.may_reach(found, self.rules, is_own=is_own):
            via = self.asked if name != self.asked else ""
            refused = egress_rules.refusal(name, found, is_own=is_own, via=via)
            self.refused.append(refused)
            raise refused


def _is_own(address: str) -> bool:
    """Whether this host has the address itself: only then may something here be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as tried:
        tried.bind((address, 0))
        return True
    return False


def _proxy(scheme: str, name: str, port: int) -> str | None:
    """The proxy this host's administrator has set for the worker, if any."""
    known = environment()
    found = known.get(f"{scheme}_proxy") or known.get(f"{scheme.upper()}_PROXY")
    bypass = {"no": known.get("no_proxy") or known.get("NO_PROXY") or ""}
    if not found or proxy_bypass_environment(f"{_bracketed(name)}:{port}", bypass):
        return None
    return found if "://" in found else f"http://{found}"


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name


# --- the namespace and its listener


@contextlib.contextmanager
def around(rules: Sequence[str], url: str) -> Iterator[EgressProxy]:
    """Open the proxy for as long as a pull of `url` lasts. Raises Problem where the kernel gives no network namespace."""
    namespace, listener = _empty_network()
    guard = EgressProxy(rules, namespace, listener.getsockname()[1], urlsplit(url).hostname or "")
    served = threading.Thread(target=_serve, args=(guard, listener), name="egress-proxy", daemon=True)
    served.start()
    try:
        yield guard
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        served.join()
        listener.close()
        os.close(namespace)


def _empty_network() -> tuple[int, socket.socket]:
    """A new namespace and a socket that listens in it, made by a thread that ends in it: nothing else is moved there."""
    made: list[tuple[int, socket.socket]] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            _bring_up(listener)
            listener.bind(("127.0.0.1", 0))
            listener.listen(AT_ONCE)
            made.append((os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY), listener))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise Problem(
            "This host's kernel provides no network namespace for the download: "
            f"{failed[0].strerror}.", code="namespace-missing",
            hint="This needs CONFIG_NET_NS and, if the worker runs in a container, permission to create one.",
        ) from failed[0]  # fmt: skip
    return made[0]


def _bring_up(any_socket: socket.socket) -> None:
    """The loopback of a new namespace is down."""
    asked = struct.pack("16sh", b"lo", 0) + bytes(22)
    flags = struct.unpack_from("h", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked), 16)[0]
    fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | _IFF_UP) + bytes(22))


def _serve(guard: EgressProxy, listener: socket.socket) -> None:
    places = threading.BoundedSemaphore(AT_ONCE)
    while True:
        places.acquire()
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the listener is closed
        threading.Thread(target=_attend, args=(guard, client, places), name="egress-proxy-client", daemon=True).start()


def _attend(guard: EgressProxy, client: socket.socket, places: threading.BoundedSemaphore) -> None:
    with contextlib.closing(client):
        try:
            _carry(guard, client)
        except NotAllowed:
            _answer(client, "403 Forbidden")
        except (OSError, ValueError):
            _answer(client, "502 Bad Gateway")
        finally:
            places.release()


def _answer(client: socket.socket, status: str) -> None:
    with contextlib.suppress(OSError):
        client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())


# --- one request


def _carry(guard: EgressProxy, client: socket.socket) -> None:
    """One request through the proxy, and its answer back. Raises NotAllowed, OSError, ValueError."""
    head, rest = _head(client)
    method, target, *_ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    tunnel = method == "CONNECT"
    parts = urlsplit(f"https://{target}" if tunnel else target)
    if parts.scheme not in {"http", "https"} or not parts.hostname or (parts.scheme == "https" and not tunnel):
        raise ValueError(target)
    port = parts.port or (443 if tunnel else 80)
    server, is_proxy = guard.connect(parts.scheme, parts.hostname, port)
    with contextlib.closing(server):
        if tunnel and not is_proxy:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            server.sendall(rest)
        elif tunnel:
            server.sendall(head + rest)
        else:
            server.sendall(_closing(head if is_proxy else head.replace(target.encode(), _path(target), 1)) + rest)
            answer, begun = _head(server)
            client.sendall(_closing(answer) + begun)
        _relay(client, server)


def _path(target: str) -> bytes:
    parts = urlsplit(target)
    return f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}".encode()


def _closing(head: bytes) -> bytes:
    """The same, and the connection ends after it: the next request is judged anew."""
    return _HOP.sub(b"", head).removesuffix(b"\r\n\r\n") + b"\r\nConnection: close\r\n\r\n"


def _head(stream: socket.socket) -> tuple[bytes, bytes]:
    """Everything up to the empty line, with it, and what came behind. Raises ValueError for one without end, OSError."""
    stream.settimeout(SECONDS)
    got = b""
    while b"\r\n\r\n" not in got:
        piece = stream.recv(HEAD)
        if not piece or len(got) > HEAD:
            raise ValueError("the header does not end")
        got += piece
    end = got.index(b"\r\n\r\n") + 4
    return got[:end], got[end:]


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways until either side ends, or both are quiet for too long."""
    with selectors.DefaultSelector() as selector:
        for stream, to in ((one, other), (other, one)):
            stream.settimeout(QUIET)
            selector.register(stream, selectors.EVENT_READ, to)
        while ready := selector.select(QUIET):
            for key, _ in ready:
                source: socket.socket = key.fileobj  # type: ignore[assignment]  # what was registered
                piece = source.recv(_PIECE)
                if not piece:
                    return
                key.data.sendall(piece)
