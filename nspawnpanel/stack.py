"""The whole panel on this machine, as child processes: Valkey, courier, web, and hosts that join. For `make demo`, tests, bench."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from nspawnpanel.sandbox import Sandbox
from nspawnpanel.valkey import Valkey

REPOSITORY = Path(__file__).resolve().parent.parent
WORKER = "nspawnpanel-host.service"
START_TIME = 30.0  # seconds until a page is served
STOP_TIME = 5.0


class StackError(RuntimeError):
    """A part of the panel did not start; the message carries the end of its log."""


class Stack:
    """`with Stack(data, port=8000) as panel: panel.join(sandbox)`. All files are in `data`; a second start goes on with them."""

    def __init__(self, data: Path, port: int, *, environment: dict[str, str] | None = None) -> None:
        self.data, self.port = data.absolute(), port
        self.valkey = Valkey(self.data / "valkey", _kept_port(self.data / "valkey-port"))
        self.extra = environment or {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def hosts_redis_url(self) -> str:
        """Redis as sandbox hosts reach it."""
        return f"redis://{Sandbox.gateway}:{self.valkey.port}/0"

    @property
    def environment(self) -> dict[str, str]:
        """What the panel's processes see: our settings, and nothing of the caller's but its PATH."""
        return {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "NSPAWNPANEL_ENV": "/nonexistent",
            "NSPAWNPANEL_DATA": str(self.data),
            "NSPAWNPANEL_URL": f"http://{Sandbox.gateway}:{self.port}",  # how sandbox hosts reach it
            "NSPAWNPANEL_HOSTS_REDIS_URL": self.hosts_redis_url,
            "ALLOWED_HOSTS": f"localhost,127.0.0.1,[::1],{Sandbox.gateway}",
            **self.extra,
        }

    # --- life

    def start(self) -> Self:
        """Start everything; returns when pages are served. Raises StackError; then nothing is left running."""
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.data / "log").mkdir(exist_ok=True)
        try:
            self.valkey.start()
            (self.data / "valkey-port").write_text(str(self.valkey.port))
            self.collect_static()
            self.manage("prepare", "--admin", "admin", "--redis-admin-url", self.valkey.admin_url)
            self.start_part("courier")
            self.start_part("web")
            self.wait_for_pages()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        for name in reversed(list(self._processes)):
            self.stop_part(name)
        self.valkey.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # --- parts

    def start_part(self, name: str) -> None:
        """Start "web" or "courier" (or a second one, "courier-2"); what it prints goes to `data`/log/NAME.log."""
        with (self.data / "log" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self._argv(name),
                cwd=REPOSITORY,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop_part(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(STOP_TIME)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def restart_part(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        self.stop_part(name, how)
        self.start_part(name)

    def pid(self, name: str) -> int:
        """The process of a part that runs."""
        return self._processes[name].pid

    def ended(self) -> list[str]:
        """The parts that ended by themselves."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def manage(self, *words: str) -> str:
        """Run a manage.py command; returns what it printed. Raises StackError with the end of its output."""
        return self._run([sys.executable, "manage.py", *words], f"manage.py {words[0]}")

    def collect_static(self) -> None:
        """What browsers get, as it is in this checkout now: pages name files by their content. Raises StackError."""
        self._run(["nspawnpanel/setup.sh", "static"], "setup.sh static")

    def _run(self, argv: list[str], name: str) -> str:
        done = subprocess.run(
            argv, cwd=REPOSITORY, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )  # fmt: skip
        if done.returncode != 0:
            raise StackError(f"{name} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout

    def _argv(self, name: str) -> list[str]:
        if name.startswith("courier"):
            return [sys.executable, "manage.py", "courier"]
        return [sys.executable, "manage.py", "web", "--port", str(self.port), "--patience", "2"]

    def wait_for_pages(self) -> None:
        """Until the web process answers. Raises StackError."""
        deadline = time.monotonic() + START_TIME
        while time.monotonic() < deadline:
            if self._answers():
                return
            if self.ended():
                break
            time.sleep(0.05)
        raise StackError(f"The panel did not start: {self.log_tail(self.ended()[0] if self.ended() else 'web')}")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("localhost", self.port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/accounts/login/")
            return connection.getresponse().status == http.client.OK
        return False

    def log_tail(self, name: str) -> str:
        log = self.data / "log" / f"{name}.log"
        return log.read_text(errors="replace")[-2000:].strip() if log.exists() else ""

    # --- hosts

    def join(self, host: Sandbox, name: str = "") -> None:
        """Make a booted sandbox a host of this panel and (re)start its worker; returns when its inventory is in.

        Joining again changes no generation.
        """
        keys = host.run([f"/{_HOME}/bin/python", "-m", "machines.host.agent.enrol"]).stdout
        lines = self.host_environment(name or host.name, keys, self.hosts_redis_url)
        host.write("/etc/nspawnpanel/host.env", lines, mode=0o600)
        host.run(["systemctl", "daemon-reload"])
        since = time.time()
        host.run(["systemctl", "restart", WORKER])
        self.wait_for_host(name or host.name, since)

    def wait_for_host(self, name: str, since: float, seconds: float = 60) -> None:
        """Until an inventory of the host has come in after `since` (seconds since the epoch). Raises StackError."""
        self.manage("wait_for_host", name, "--since", str(since), "--seconds", str(seconds))

    def host_environment(self, name: str, keys: str, redis_url: str) -> str:
        """Register a host by its keys; returns the text of its host.env."""
        return self.manage(
            "add_host", name, keys.strip(), "--redis-url", redis_url, "--redis-admin-url", self.valkey.admin_url
        )


_HOME = "opt/nspawnpanel"


def _kept_port(file: Path) -> int:
    """The port an earlier start used, so that hosts find the same address; 0 for any."""
    return int(file.read_text()) if file.is_file() else 0
