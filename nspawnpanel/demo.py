"""`make demo`: the whole system in the foreground, with one real sandbox host, until Ctrl-C or SIGTERM."""

import argparse
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from nspawnpanel.sandbox import CACHE, Sandbox, SandboxError, can_boot
from nspawnpanel.stack import REPOSITORY, Stack, StackError
from nspawnpanel.valkey import ValkeyError

LOCAL_UNIT = "nspawnpanel-host-demo.service"
POLICY = "machines/host/policy/policy.toml"


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # this is a command line


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a step and say how long it took."""
    began = time.monotonic()
    say(f"• {text} …")
    yield
    say(f"  done in {time.monotonic() - began:.1f} s")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data", type=Path, default=Path("/var/lib/nspawnpanel-demo"))
    parser.add_argument("--host", choices=["sandbox", "local"], default="sandbox")
    parser.add_argument("--cache", type=Path, default=CACHE)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    for number in (signal.SIGTERM, signal.SIGINT):  # SIGINT too: a shell's background job inherits it ignored
        signal.signal(number, _interrupt)
    began = time.monotonic()
    try:
        with ExitStack() as running:
            panel = running.enter_context(_panel(options))
            running.enter_context(_host(options, panel))
            _welcome(panel, time.monotonic() - began)
            _watch(panel)
            say("Stopping …")
    except KeyboardInterrupt:
        say("Stopped." if sys.exc_info()[0] else "")
    except (StackError, SandboxError, ValkeyError) as error:
        sys.stderr.write(f"make demo: {error}\n")
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; let the stopping finish
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextmanager
def _panel(options: argparse.Namespace) -> Iterator[Stack]:
    with step("Starting Valkey, the courier and the web server"):
        here = {"NSPAWNPANEL_URL": f"http://127.0.0.1:{options.port}"} if options.host == "local" else {}
        panel = Stack(options.data, options.port, environment=here).start()
    try:
        yield panel
    finally:
        panel.stop()


@contextmanager
def _host(options: argparse.Namespace, panel: Stack) -> Iterator[None]:
    with _local_host(options, panel) if options.host == "local" else _sandbox_host(options, panel):
        yield


@contextmanager
def _sandbox_host(options: argparse.Namespace, panel: Stack) -> Iterator[None]:
    """A Debian booted by systemd-nspawn; nothing of this machine is touched by what is done in it."""
    if reason := can_boot():
        raise StackError(f"No sandbox host can run here: {reason}. With systemd on this machine: make demo HOST=local")
    host = Sandbox(f"demo-{options.port}", options.cache, keep=True, say=lambda line: say(f"  {line}"))
    with step("Booting the sandbox host (the first time, a Debian tree is built: about a minute)"):
        host.start()
    try:
        with step("The sandbox host joins the panel"):
            host.write("/etc/nspawnpanel/policy.toml", (REPOSITORY / POLICY).read_text())
            panel.join(host, "sandbox")
        yield
    finally:
        host.stop()


@contextmanager
def _local_host(options: argparse.Namespace, panel: Stack) -> Iterator[None]:
    """This machine itself as the host: the worker runs as a transient service of its systemd."""
    if not Path("/run/systemd/system").is_dir():
        raise StackError(
            "This machine does not run systemd, so it cannot be a host. Without HOST=local a sandbox host is booted."
        )
    state = options.data / "host"
    environment = {"NSPAWNPANEL_STATE": str(state), "PYTHONPATH": str(REPOSITORY)}
    with step("This machine joins the panel"):
        keys = subprocess.run(
            [sys.executable, "-m", "machines.host.agent.enrol"], cwd=REPOSITORY, env=panel.environment | environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        lines = panel.host_environment("local", keys, f"redis://127.0.0.1:{panel.valkey.port}/0")
        file = options.data / "host.env"
        file.touch(mode=0o600)
        file.write_text(lines + "".join(f"{name}={value}\n" for name, value in environment.items()))
        since = time.time()
        _run_worker(file)
        panel.wait_for_host("local", since)
    try:
        yield
    finally:
        subprocess.run(["systemctl", "stop", LOCAL_UNIT], check=False, stdin=subprocess.DEVNULL)


def _run_worker(file: Path) -> None:
    subprocess.run(
        [
            "systemd-run", f"--unit={LOCAL_UNIT}", "--collect", "--quiet", "--slice=nspawnpanel.slice",
            f"--property=EnvironmentFile={file}", "--property=Restart=always", "--property=KillMode=mixed",
            "--property=NotifyAccess=all",
            sys.executable, "-m", "machines.host.agent.worker",
        ],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def _welcome(panel: Stack, seconds: float) -> None:
    password = (panel.data / "first-password").read_text().strip()
    say(f"\nReady after {seconds:.0f} s. Everything below {panel.data} belongs to this demo; Ctrl-C stops it.\n")
    say(f"URL: {panel.url}/")
    say("User: admin")
    say(f"Password: {password}\n")


def _watch(panel: Stack) -> None:
    """Stay until interrupted; a part that ends by itself is said and started again."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for name in panel.ended():
                say(f"The {name} ended: {panel.log_tail(name)}\nStarting it again.")
                panel.restart_part(name)
            time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
