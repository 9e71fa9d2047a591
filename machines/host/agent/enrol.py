"""`python -m machines.host.agent.enrol`: make this host's keys and print their public halves for the panel.

It may be run again at any time: the same keys are printed again.
"""

import argparse
import sys
from base64 import b64encode

from machines.contract.problems import Problem
from machines.host.context import keys, settings
from machines.host.system.paths import Paths


def line(own: keys.Keys) -> str:
    """`np-host1:VERIFY:BOX`, both keys in base64: what the panel's “Add host” asks for."""
    verify, box = bytes(own.sign.verify_key), bytes(own.box.public_key)
    return f"np-host1:{b64encode(verify).decode()}:{b64encode(box).decode()}"


def main() -> int:
    """Make the keys if need be and print the line; 1 with a sentence when that cannot be done."""
    argparse.ArgumentParser(prog="python -m machines.host.agent.enrol", description=__doc__).parse_args()
    try:
        own = keys.make(Paths(state=settings.state()).keys)
    except (Problem, OSError) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    sys.stdout.write(f"{line(own)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
