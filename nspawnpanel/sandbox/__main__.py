"""`python -m nspawnpanel.sandbox prepare | boot | shell | unmount`: sandbox hosts by hand, for developers."""

import argparse
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

from nspawnpanel.sandbox import pool
from nspawnpanel.sandbox.host import CACHE, Sandbox, can_boot
from nspawnpanel.sandbox.run import CLEAN, SandboxError
from nspawnpanel.sandbox.trees import prepare, prepare_machine


def tell(line: str) -> None:
    """Print at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def arguments() -> argparse.Namespace:
    """The command line, read."""
    parser = argparse.ArgumentParser(prog="python -m nspawnpanel.sandbox", description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where trees are kept (default: %(default)s)")
    parser.add_argument("--suite", default="bookworm", help="Debian suite of the host (default: %(default)s)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("prepare", help="build the trees that are not in the cache yet")
    for verb, text in (
        ("boot", "boot a host and stay in the foreground"),
        ("shell", "boot a host and open a shell in it"),
    ):
        sub = verbs.add_parser(verb, help=text)
        sub.add_argument("name", nargs="?", default="sandbox")
        sub.add_argument("--keep", action="store_true", help="keep its machines and files for the next time")
        sub.add_argument("--machine", action="append", default=[], metavar="NAME", help="plant a small machine's image")
    verbs.add_parser("unmount", help="unmount the cache's pool; the next use mounts it again")
    return parser.parse_args()


def prepare_all(options: argparse.Namespace) -> None:
    """Both trees, so that everything after this works offline."""
    for build in (prepare, prepare_machine):
        tell(str(build(options.cache, options.suite, say=tell)))


def with_host(options: argparse.Namespace) -> None:
    """Boot, then a shell or a wait for Ctrl-C or SIGTERM; the host is stopped on every way out."""
    signal.signal(signal.SIGTERM, _interrupt)
    with Sandbox(options.name, options.cache, suite=options.suite, keep=options.keep, say=tell) as host:
        for machine in options.machine:
            if not (host.tree / "var/lib/machines" / machine).exists():
                host.plant(machine)
        if options.verb == "shell":
            _shell(host)
        else:
            tell(f"{host.name} is up; enter it with: nsenter --target {host.leader} --all")
            threading.Event().wait()


def _shell(host: Sandbox) -> None:
    argv = ["nsenter", "--target", str(host.leader), "--all", "--", "bash", "--login"]
    subprocess.run(argv, check=False, env={**CLEAN, "TERM": os.environ.get("TERM", "dumb")})


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run one verb; 1 with a sentence on stderr when it cannot be done."""
    options = arguments()
    if options.verb != "unmount" and (reason := can_boot()):
        sys.stderr.write(f"{reason}\n")
        return 1
    try:
        if options.verb == "prepare":
            prepare_all(options)
        elif options.verb == "unmount":
            pool.close_pool(options.cache)
        else:
            with_host(options)
    except KeyboardInterrupt:
        return 0
    except SandboxError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
