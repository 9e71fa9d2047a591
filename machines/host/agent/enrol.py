"""`python -m machines.host.agent.enrol TOKEN --panel URL`: join the panel that made the token.

It shows the fingerprint of this host's new keys, waits until an administrator has compared it with the one on the panel, and
then writes the settings and starts the worker. Until that moment nothing on this host has changed; broken off, it can be
run again with the same token. Without a token it makes this host's keys, if need be, and prints their public halves for
`manage.py add_host`.
"""

import argparse
import os
import platform
import shutil
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from machines import host
from machines.contract import enrolment
from machines.contract.problems import EnvelopeRefused, Problem
from machines.host.agent.enrol_request import Door, Offered
from machines.host.context import keys, private_files, settings
from machines.host.system import systemctl
from machines.host.system.paths import Paths
from machines.host.system.run import run

UNIT = Path(host.__file__).with_name("nspawnpanel-host.service")
EVERY = 2.0  # seconds between two questions whether it is accepted
CLOCKS = 60.0  # seconds by which two clocks may differ before orders suffer
Say = Callable[[str], None]


def line(own: keys.Keys) -> str:
    """`np-host1:VERIFY:BOX`, both keys in base64: what `manage.py add_host` asks for."""
    verify, box = bytes(own.sign.verify_key), bytes(own.box.public_key)
    return f"np-host1:{b64encode(verify).decode()}:{b64encode(box).decode()}"


def fingerprint(own: keys.Keys) -> str:
    return enrolment.fingerprint(own.sign.verify_key, own.box.public_key)


def join(token: enrolment.Token, panel: str, state: Path, say: Say, wait: Callable[[float], None] = time.sleep) -> str:
    """Join; the text of the new settings, which are written. Raises Problem, OSError.

    The keys lie aside, where a second run finds them, until the panel has answered.
    """
    aside, final = state / "keys.joining", Paths(state=state).keys
    own = keys.make(aside)
    groups = fingerprint(own).split()
    say(f"Fingerprint of this host:\n\n    {'  '.join(groups[:3])}\n    {'  '.join(groups[3:])}\n")
    say("Compare it with the one that the panel shows, and accept the host there only if all six groups are the same.")
    answer = _answer(token, own, Door(panel, token.id), say, wait)
    try:
        welcome, secret = enrolment.read_welcome(answer, token, own.sign.verify_key, own.box)
    except EnvelopeRefused as refused:
        raise Problem(
            f"What answers at {panel} is not the panel of this token: {refused.message} Nothing has been changed.",
            code="panel-refused", hint="Check the address, and whether something stands between this host and the panel.",
        ) from refused  # fmt: skip
    if abs(off := time.time() - welcome.issued) > CLOCKS:
        say(f"Warning: this host's clock and the panel's are {abs(off):.0f} s apart; orders wait until they agree.")
    text = settings_text(welcome, secret)
    keys.replace(aside, final)
    settings.FILE.parent.mkdir(parents=True, exist_ok=True)
    private_files.write(settings.FILE, text.encode())
    shutil.rmtree(aside)
    return text


def _answer(token: enrolment.Token, own: keys.Keys, door: Door, say: Say, wait: Callable[[float], None]) -> str:
    """Ask until the panel has answered; it says itself when the time is over. Raises Problem."""
    told = ""
    while True:
        claim = enrolment.sign_claim(
            token, own.sign, own.box.public_key, hostname=platform.node(), system=_system(), at=time.time()
        )
        said: Offered = door.ask(claim)
        if said.answer:
            return said.answer
        if said.state != told:
            say("Waiting for an administrator to accept this host …" if said.state == "pending" else "Accepted.")
        told = said.state
        wait(EVERY)


def settings_text(welcome: enrolment.Welcome, secret: enrolment.Secret) -> str:
    """The text of host.env. Raises Problem where a value would be two lines."""
    values = {
        "NSPAWNPANEL_HOST_ID": str(welcome.host),
        "NSPAWNPANEL_GENERATION": str(welcome.generation),
        "NSPAWNPANEL_PANEL_KEYS": ",".join(secret.panel_keys),
        "NSPAWNPANEL_REDIS_URL": secret.redis_url,
        **({"NSPAWNPANEL_REDIS_PINS": ",".join(secret.redis_pins)} if secret.redis_pins else {}),
        **({"NSPAWNPANEL_PANEL_URL": secret.panel_url} if secret.panel_url else {}),
    }
    if bad := [name for name, value in values.items() if not value.isprintable()]:
        raise Problem(f"The panel's answer cannot be used: {bad[0]} has a control character.", code="bad-value")
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def start() -> None:
    """The worker, now and at every boot. Raises CommandFailed."""
    run(systemctl.daemon_reload(), timeout=60)
    run(systemctl.enable(str(UNIT)), timeout=60)
    run(systemctl.restart(UNIT.name), timeout=90)


def main() -> int:
    """What the arguments ask for; 1 with a sentence when it cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m machines.host.agent.enrol", description=__doc__)
    parser.add_argument("token", nargs="?", help="np1.…, as the panel shows it")
    parser.add_argument("--panel", help="the panel's address, such as https://panel.example")
    parser.add_argument("--no-start", action="store_true", help="do not start the worker")
    given = parser.parse_args()
    if given.token and not given.panel:
        parser.error("a token needs --panel")
    try:
        if not given.token:
            sys.stdout.write(f"{line(keys.make(Paths(state=settings.state()).keys))}\n")
            return 0
        if os.geteuid():
            raise Problem("Only root can add this host to a panel.", code="not-allowed")
        join(enrolment.Token.parse(given.token), given.panel, settings.state(), _say)
        if not given.no_start:
            start()
        _say(f"This host has joined {given.panel}." + ("" if given.no_start else " Its worker is running."))
    except (Problem, OSError) as problem:
        hint = problem.hint if isinstance(problem, Problem) else ""
        sys.stderr.write(f"{problem}{' ' if hint else ''}{hint}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nBroken off. Nothing has been changed; the same command can be run again.\n")
        return 1
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
