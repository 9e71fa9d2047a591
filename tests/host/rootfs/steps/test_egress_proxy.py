"""The door of a pull over real sockets; that there is no way past it is shown on a real host (tests/live)."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import pytest

from machines.contract.problems import NotAllowed
from machines.host.rootfs.steps import egress_proxy
from machines.host.rootfs.steps.egress_proxy import EgressProxy

HERE = ("127.0.0.1",)


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Connection"], self.headers["Host"]))  # type: ignore[attr-defined]
        body = self.path.encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "keep-alive")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def listening() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with listening() as made:
        yield made


@contextlib.contextmanager
def listener(rules: tuple[str, ...], asked: str = "") -> Iterator[EgressProxy]:
    """One in this very network."""
    listener = socket.create_server(("127.0.0.1", 0))
    made = EgressProxy(rules, os.open("/proc/self/ns/net", os.O_RDONLY), listener.getsockname()[1], asked)
    thread = threading.Thread(target=egress_proxy._serve, args=(made, listener))
    thread.start()
    yield made
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()
    os.close(made.namespace)


def get(through: EgressProxy, url: str) -> bytes:
    proxies = ProxyHandler({"http": through.variables["http_proxy"], "https": through.variables["https_proxy"]})
    with build_opener(proxies).open(url, timeout=10) as answer:
        return answer.read()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in egress_proxy.environment():
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name, raising=False)


def test_a_request_goes_through_and_its_connection_is_not_used_again(server: ThreadingHTTPServer) -> None:
    port = server.server_port
    with listener(HERE) as opened:
        assert get(opened, f"http://127.0.0.1:{port}/a?b=c") == b"/a?b=c" * 1000
    assert server.seen == [("/a?b=c", "close", f"127.0.0.1:{port}")]  # type: ignore[attr-defined]
    assert (opened.refused, opened.failures) == ([], [])


def test_what_the_policy_leaves_out_is_refused_before_anything_is_connected(server: ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{server.server_port}/"
    with listener(("public", "private"), "images.example") as opened, pytest.raises(HTTPError, match="403"):
        get(opened, url)
    assert "images.example redirects to 127.0.0.1, the host itself" in opened.refused[0].message
    assert server.seen == []  # type: ignore[attr-defined]


def test_a_name_is_judged_by_the_address_it_has(server: ThreadingHTTPServer) -> None:
    url = f"http://localhost:{server.server_port}/"
    with listener(("public",), "localhost") as opened, pytest.raises(HTTPError, match="403"):
        get(opened, url)
    assert "localhost resolves to" in opened.refused[0].message


@pytest.mark.parametrize("spelt", ["2130706433", "0x7f000001", "127.1", "017700000001", "[::ffff:127.0.0.1]", "0"])
def test_no_spelling_of_a_number_gets_past(spelt: str, server: ThreadingHTTPServer) -> None:
    with listener(("public", "private")) as opened, pytest.raises(HTTPError, match="403"):
        get(opened, f"http://{spelt}:{server.server_port}/")
    assert opened.refused
    assert server.seen == []  # type: ignore[attr-defined]


def test_an_address_this_host_has_is_the_host_itself() -> None:
    assert egress_proxy._is_own("127.0.0.1")
    assert not egress_proxy._is_own("192.0.2.1")


def test_a_name_with_one_address_that_is_refused_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, 1, 6, "", (address, 80)) for address in ("192.0.2.1", "169.254.169.254")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    asked = EgressProxy(("public", "private"), 0, 0, "two.example")
    with pytest.raises(NotAllowed, match=r"two\.example resolves to 169\.254\.169\.254"):
        asked.connect("http", "two.example", 80)


def test_a_tunnel_is_judged_and_carried_as_it_is(server: ThreadingHTTPServer) -> None:
    with listener(HERE) as opened:
        with socket.create_connection(("127.0.0.1", opened.port), 10) as line:
            line.sendall(f"CONNECT 127.0.0.1:{server.server_port} HTTP/1.1\r\n\r\n".encode())
            assert line.recv(1000).startswith(b"HTTP/1.1 200")
            line.sendall(b"GET /t HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            got = b""
            while b"/t/t/t" not in got:
                got += line.recv(65536) or pytest.fail("the tunnel ended")
        with pytest.raises(URLError, match="403"):
            get(opened, "https://127.0.0.2/")


@pytest.mark.parametrize(
    "head",
    [
        b"GET file:///etc/passwd HTTP/1.1", b"GET ftp://127.0.0.1/ HTTP/1.1", b"GET https://127.0.0.1/ HTTP/1.1",
        b"GET / HTTP/1.1", b"NONSENSE", b"GET http:// HTTP/1.1", b"CONNECT [::1 HTTP/1.1", b"CONNECT a:99999 HTTP/1.1",
        b"GET http://\xff/ HTTP/1.1", b"x" * 200_000,
    ],
)  # fmt: skip
def test_it_answers_nonsense_and_lives_on(head: bytes, server: ThreadingHTTPServer) -> None:
    with listener(HERE) as opened:
        with socket.create_connection(("127.0.0.1", opened.port), 10) as line, contextlib.suppress(ConnectionError):
            line.sendall(head + b"\r\n\r\n")
            assert line.recv(100).startswith(b"HTTP/1.1 502")
        assert get(opened, f"http://127.0.0.1:{server.server_port}/x")


def test_what_could_not_be_reached_is_told_in_words() -> None:
    with listener((*HERE, "public")) as opened:
        for url in ("http://127.0.0.1:1/", "http://no-such-name.invalid/"):
            with pytest.raises(HTTPError, match="502"):
                get(opened, url)
    assert opened.failures[0] == "127.0.0.1, port 1: Connection refused"
    assert opened.failures[1].startswith("no-such-name.invalid, port 80: ")


def test_the_host_s_own_proxy_is_asked_and_numbers_are_judged_all_the_same(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    with listener(("public",)) as opened:
        assert get(opened, "http://images.example/i")
        with pytest.raises(HTTPError, match="403"):
            get(opened, "http://169.254.169.254/")
    assert [path for path, _, _ in server.seen] == ["http://images.example/i"]  # type: ignore[attr-defined]
