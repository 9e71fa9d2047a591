"""The sandbox's door to subprocess: argv lists only, every wait bounded, one exception that carries its command."""

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLEAN = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root", "TERM": "dumb", "DEBIAN_FRONTEND": "noninteractive"}
TAIL = 2_000  # characters of stderr that an error shows


def printable(text: str) -> str:
    """The same with ? for bytes that are no UTF-8, which names of files may have and no terminal takes."""
    return text.encode(errors="replace").decode()


class SandboxError(RuntimeError):
    """A sandbox, its trees or its pool could not do what was asked; the message says what, why and what to do."""


class CommandFailed(SandboxError):
    """A command ended with a status other than 0, or by a signal (then `status` is negative)."""

    def __init__(self, argv: Sequence[str], status: int, stdout: str, stderr: str) -> None:
        self.argv, self.status, self.stdout, self.stderr = list(argv), status, stdout, stderr
        said = (stderr.strip() or stdout.strip() or "it said nothing")[-TAIL:]
        super().__init__(f"{printable(shlex.join(argv))} ended with status {status}: {said}")


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,  # noqa: A002 - the word subprocess uses
    check: bool = True,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` to its end and return its text. Raises CommandFailed (if `check`), or SandboxError after `timeout` seconds."""
    with popen(argv, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, env=env) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except BaseException as error:
            kill_group(process)
            process.wait()  # not for the end of its output: systemd-run --pipe hands the pipes to a unit that lives on
            if isinstance(error, subprocess.TimeoutExpired):
                raise SandboxError(f"{printable(shlex.join(argv))} did not end within {timeout:g} seconds") from None
            raise
    if check and process.returncode != 0:
        raise CommandFailed(argv, process.returncode, stdout, stderr)
    return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)


def popen(
    argv: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """Start `argv` in a process group of its own, so that kill_group() reaches what it forked as well."""
    return subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
        errors="replace",
        env=dict(env or CLEAN),
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[str], signum: int = signal.SIGKILL) -> None:
    """Signal the process and everything it forked: nsenter's child outlives nsenter itself."""
    try:
        os.killpg(process.pid, signum)
    except ProcessLookupError:
        return
