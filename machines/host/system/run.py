"""The only way to other programs (style R31).

argv is a list and never meets a shell; the environment is built here; standard input is closed or given bytes; every
call has a time limit; lines go to a callback as they come; the child and its process group are always reaped.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from machines.host.system.faults import CommandFailed, Stopped, TookTooLong

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A host behind a proxy or a company's certificate authority reaches its mirror only with these.
PASSED_ON = (
    "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "TMPDIR",
)  # fmt: skip
LINE_LIMIT = 16_000  # characters of one line; the rest is cut off, as reports.Line allows no more
TAIL_LINES = 40
KEEP = 8 * 1024 * 1024  # bytes of standard output kept for the caller

Heard = Callable[[str, str], None]  # (source "o" or "e", line without its newline)


@dataclass(frozen=True)
class Answer:
    """What a program said. `out` is its whole standard output, up to 8 MiB."""

    argv: list[str]
    out: str
    tail: str  # last lines of its error output


@dataclass
class _Stream:
    """One pipe of a child, cut into lines."""

    source: str
    pipe: IO[bytes]
    rest: bytes = b""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))


def run(
    argv: Sequence[str],
    *,
    timeout: float = 60,
    heard: Heard | None = None,
    stdin: bytes | None = None,
    extra: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
    prepare: Callable[[], None] | None = None,
    codes: Sequence[int] = (0,),
    to: IO[bytes] | None = None,
) -> Answer:
    """Run a program to its end and return what it said.

    `timeout` in seconds; `extra` adds variables to the small environment; `stop` ends it early; `prepare` runs in the
    child before the program; exit statuses in `codes` count as success; `to` is an open file that gets
    the standard output instead. `heard` gets each line as it comes.
    Raises CommandFailed (also when the program is not installed: status 127), TookTooLong or Stopped.
    """
    words = [str(word) for word in argv]
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=to or subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(extra),
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - only builds use it, in a process without threads that matter
        )
    except OSError as error:
        raise CommandFailed(words, 127, f"{words[0]} cannot be run: {error.strerror}") from error
    with child:
        try:
            if child.stdin is not None and stdin is not None:
                child.stdin.write(stdin)
                child.stdin.close()
            return _listen(child, _Call(words, timeout, time.monotonic() + timeout, heard, stop, tuple(codes)))
        finally:
            _end(child)


@contextlib.contextmanager
def reading(argv: Sequence[str], source: IO[bytes]) -> Iterator[IO[bytes]]:
    """A program's output as a stream, its input a file. Whoever leaves early ends it.

    Raises CommandFailed when the program failed by itself, whatever the reader made of the part it got.
    """
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile() as errors:
        try:
            child = subprocess.Popen(
                words, stdin=source, stdout=subprocess.PIPE, stderr=errors, env=environment(), start_new_session=True
            )
        except OSError as error:
            raise CommandFailed(words, 127, f"{words[0]} cannot be run: {error.strerror}") from error
        with child:
            assert child.stdout is not None
            try:
                yield child.stdout
            finally:
                _end_reading(child, words, errors)


def _end_reading(child: subprocess.Popen[bytes], words: list[str], errors: IO[bytes]) -> None:
    """A program whose reader is content has had the time to end; one that is still writing is ended here."""
    assert child.stdout is not None
    if not child.stdout.read(1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=10)
    failed = child.poll()
    _end(child)
    if failed:
        errors.seek(0)
        raise CommandFailed(
            words, failed, "\n".join(errors.read(64_000).decode(errors="replace").splitlines()[-TAIL_LINES:])
        )


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """PATH, a plain locale, the way to the mirror, and nothing else of ours."""
    passed = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    path = os.environ.get("NSPAWNPANEL_PATH", PATH)
    return {"PATH": path, "LANG": "C.UTF-8", "HOME": "/root", **passed, **(extra or {})}


@dataclass(frozen=True)
class _Call:
    argv: list[str]
    timeout: float
    deadline: float
    heard: Heard | None
    stop: threading.Event | None
    codes: tuple[int, ...]

    def check(self) -> None:
        """Raises Stopped or TookTooLong when the call is over for one of these reasons."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped(f"{self.argv[0]} was stopped.")
        if time.monotonic() > self.deadline:
            raise TookTooLong(f"{self.argv[0]} did not end within {self.timeout:.0f} s.")


def _listen(child: subprocess.Popen[bytes], call: _Call) -> Answer:
    assert child.stderr is not None
    errors = _Stream("e", child.stderr)
    streams = [errors, *([_Stream("o", child.stdout)] if child.stdout else [])]
    kept = bytearray()
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.pipe, selectors.EVENT_READ, stream)
        while selector.get_map():
            call.check()
            for key, _ in selector.select(min(0.5, max(0.01, call.deadline - time.monotonic()))):
                chunk = os.read(key.fd, 65536)
                if key.data.source == "o" and len(kept) < KEEP:
                    kept += chunk
                if not chunk:
                    selector.unregister(key.fileobj)
                _cut(key.data, chunk, call.heard)
    status = _wait(child, call)
    tail = "\n".join(errors.tail or streams[-1].tail)
    if status not in call.codes:
        raise CommandFailed(call.argv, status, tail)
    return Answer(call.argv, kept.decode(errors="replace"), tail)


def _wait(child: subprocess.Popen[bytes], call: _Call) -> int:
    """A program may close its pipes and live on."""
    try:
        return child.wait(timeout=max(0.1, call.deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TookTooLong(f"{call.argv[0]} did not end within {call.timeout:.0f} s.") from None


def _cut(stream: _Stream, chunk: bytes, heard: Heard | None) -> None:
    """Whole lines to the callback; at the end of the pipe (empty chunk) also the unfinished one.

    A carriage return alone ends a line too: progress bars are lines to us. An endless line is cut where it is.
    """
    data = stream.rest + chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, rest = data.split(b"\n")
    if rest and (not chunk or len(rest) > LINE_LIMIT):
        lines, rest = [*lines, rest], b""
    stream.rest = rest
    for line in lines:
        text = line.decode(errors="replace")[:LINE_LIMIT]
        stream.tail.append(text)
        if heard is not None:
            heard(stream.source, text)


def _end(child: subprocess.Popen[bytes]) -> None:
    """After a timeout or a stop: end the whole process group, politely for two seconds, then for sure.

    The child is reaped last, so that its group number cannot belong to somebody else when it is killed.
    """
    if child.poll() is not None:
        return
    _kill(child.pid, signal.SIGTERM)
    patience = time.monotonic() + 2
    while time.monotonic() < patience and not os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.02)
    _kill(child.pid, signal.SIGKILL)
    child.wait()


def _kill(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
