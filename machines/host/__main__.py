"""`python -m machines.host`: the worker, which says in one sentence when its requirements are not installed.

Without that its unit would start it again every second, to fail in the same way.
"""

import sys

try:
    from machines.host.agent.worker import main
except ImportError as error:
    sys.stderr.write(
        f"What this host's worker is made of is not complete: {error}. "
        f"Run {sys.prefix}/bin/pip install -r {__file__.rpartition('/')[0]}/requirements.txt, then start it again.\n"
    )
    sys.exit(78)  # EX_CONFIG: the unit does not restart for it

if __name__ == "__main__":
    sys.exit(main())
