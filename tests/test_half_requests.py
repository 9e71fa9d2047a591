"""A real server, and senders of half requests: they are sent away, and others get their pages."""

import atexit
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from machines.panel.web import connections
from nspawnpanel.valkey import free_port

ROOT = Path(__file__).parent.parent
MANY = 600
MIB = 1024 * 1024
HEAD = b"POST /accounts/login/ HTTP/1.1\r\nHost: localhost\r\n"
BODY = HEAD + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 100000\r\n\r\nlogin="
ENDLESS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
GONE = connections.WINDOW * 2 + 10  # seconds, at most


@cache
def empty() -> Path:
    """The data of a panel that nobody has used yet."""
    data = Path(tempfile.mkdtemp(prefix="nspawnpanel-tests-"))
    atexit.register(shutil.rmtree, data)
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=environment_of(data), check=True)
    return data


def environment_of(data: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "SECRET_KEY": "of this test", "NSPAWNPANEL_ENV": "/nonexistent",
            "NSPAWNPANEL_DATA": str(data)}  # fmt: skip


@contextmanager
def server(data: Path, proxies: str, mib: int = 0) -> Iterator[tuple[int, int]]:
    """Its port and process id. With `mib`, no more of memory than that: the kernel refuses it any."""
    port = free_port()
    environment = environment_of(data) | {"TRUSTED_PROXIES": proxies}
    shutil.copytree(empty(), data, dirs_exist_ok=True)
    argv = [sys.executable, "manage.py", "web", "--port", str(port), "--patience", "1"]
    if mib:  # a thread's stack counts as a whole: 8 MiB each, but for the second limit
        argv = ["prlimit", f"--data={mib * MIB}", f"--stack={MIB}", *argv]
    process = subprocess.Popen(argv, cwd=ROOT, env=environment)
    try:
        until(lambda: page(port) > 0, 30)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def page(port: int) -> float:
    """Seconds until the sign-in page is there; 0 when it does not come."""
    began, connection = time.monotonic(), http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", "/accounts/login/", headers={"Host": "localhost"})
        return time.monotonic() - began if connection.getresponse().status == 200 else 0
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)


def half(port: int, sent: bytes) -> socket.socket:
    sender = socket.create_connection(("127.0.0.1", port), timeout=20)
    sender.sendall(sent)
    sender.setblocking(False)
    return sender


def is_open(sender: socket.socket) -> bool:
    try:
        return bool(sender.recv(65536))
    except BlockingIOError:
        return True
    except OSError:
        return False


def memory(process: int) -> int:
    """The most that it ever had, in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def test_hundreds_of_half_requests_are_sent_away_and_others_get_their_pages(tmp_path, capsys):
    """As if they came through a proxy, so that no address is counted."""
    with server(tmp_path, "127.0.0.1") as (port, process), ExitStack() as opened:
        kinds = [sent for sent in (HEAD, BODY, ENDLESS) for _ in range(MANY // 3)]
        senders = [opened.enter_context(half(port, sent)) for sent in kinds]
        assert sum(is_open(each) for each in senders) == MANY
        times = [page(port) for _ in range(5)]
        assert all(times)
        until(lambda: not any(is_open(each) for each in senders), GONE)
        assert page(port)
        most = memory(process)
    assert most < 300
    with capsys.disabled():
        print(f"\n{MANY} half requests: others' pages {max(times):.2f} s at most, {most} MiB")


def test_one_address_has_a_hundred_connections_and_its_next_whole_request_is_answered(tmp_path):
    with server(tmp_path, "192.0.2.1") as (port, _), ExitStack() as opened:
        senders = [opened.enter_context(half(port, HEAD)) for _ in range(connections.PER_ADDRESS + 50)]
        assert page(port)
        assert sum(is_open(each) for each in senders) < connections.PER_ADDRESS
