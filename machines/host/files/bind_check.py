"""`python -I bind_check.py MACHINE`: at each start of a machine, before systemd-nspawn, whether its binds may still be made.

The drop-in that runs it (bind_dropin.py) is written with the machine's settings. What a path leads to may have changed since
those were judged: a link, a mount, a folder that was renamed. It fails the start with one sentence in the unit's log.
What cannot be imported judges nothing and fails nothing: nobody but root can bring that about, and a machine must not stay
down because the worker's python was upgraded.

What remains: between this look and systemd-nspawn's own mounting some milliseconds pass, in which whoever can write to a folder
on the way can put a link there. No machine can, for a bind below what another machine writes to is refused (validate.py);
users of this host to whom such a folder belongs could. Without the policy's privileged_binds they gain nothing by it.
"""

import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # -I takes it from nobody else

try:
    from machines.contract.configuration import nspawn, protected
    from machines.contract.names import MachineName, machine_name
    from machines.contract.problems import Problem
    from machines.host.context import settings
    from machines.host.files import files_on_disk
    from machines.host.policy import bind_dropin, owners, policy, protection
    from machines.host.policy.policy import Policy
    from machines.host.policy.protection import Protection, Source
    from machines.host.system import guarded
    from machines.host.system.paths import Paths
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(f"The binds of {sys.argv[-1]} are not checked: {error}\n")
    sys.exit(0)


def refusals(paths: Paths, rules: Policy | None, name: MachineName) -> Iterator[str]:
    """Why the machine may not start with its binds, a sentence each. Without `rules` only what is never allowed counts.
    Raises OSError when its settings cannot be read."""
    file = next(files_on_disk.nspawn_files(paths, files_on_disk.Places(name, paths.machines)), None)
    if file is None or file.parent not in {paths.nspawn, paths.probes}:
        return  # binds of a file beside the image are nothing to systemd
    each = list(protection.sources(nspawn.parse(guarded.whole(file).decode(errors="surrogateescape"))))
    if not each:
        return
    for broken in Protection(protection.places(paths)).judge(each, as_root=False):
        yield f"{broken.source.key}={broken.source.value}: {broken.why}"
    led = bind_dropin.remembered(paths, name)
    for source in each if rules else ():
        if rules and (why := strayed(rules, source, led.get(source.path, led.get(bind_dropin.REST)))):
            yield f"The policy of this host ({policy.rule_of(source)}) does not allow it: {why}"


def strayed(rules: Policy, source: Source, was: str | None) -> str:
    """Why a path that the policy allows by its name is not what it `was`: it leads out of the allowed folders by now.

    One that stands outside of them was there before the panel was, and is an administrator's own; so is a link that led out of
    them when it was written down (a line that stood there passes the policy), and what was never written down (None).
    """
    named = protected.normal(source.path)
    roots = (*rules.bind_sources, *rules.bind_sources_read_only)
    if was is None or not any(protected.is_in(named, root) for root in roots):
        return ""
    why = policy.outside(rules, source)
    if not why or guarded.call(source.path, lambda: os.path.realpath(source.path)) == was:
        return ""
    return f"{why} It pointed to {was} when it was recorded." if was else why


def _team(paths: Paths, name: str) -> str:
    """Whose machine it is; "" too where that cannot be read, for then the rules of the whole host hold."""
    try:
        return owners.read(paths.ledger, name)
    except sqlite3.Error as error:
        sys.stderr.write(f"Whose machine {name} is cannot be read ({error}); its team's own rules are not checked.\n")
        return ""


def main(name: str) -> int:
    paths = Paths(state=settings.state())
    try:
        rules: Policy | None = policy.read(paths.policy).of(_team(paths, name))
    except Problem as problem:
        sys.stderr.write(f"{problem.message} The binds of {name} are checked without it.\n")
        rules = None
    try:
        said = list(refusals(paths, rules, machine_name(name)))
    except (OSError, Problem) as error:
        said = [f"its binds cannot be checked: {error}"]
    for why in said:
        sys.stderr.write(f"{name} is not started: {why}\n")
    return 1 if said else 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1]))
