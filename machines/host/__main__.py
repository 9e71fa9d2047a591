"""`python -m machines.host`: the worker, which says in one sentence when its requirements are not installed.

Without that its unit would start it again every second, to fail in the same way.
"""

import sys

try:
    from machines.host.agent.worker import main
except ImportError as error:
    sys.stderr.write(
        f"The dependencies of this host's worker are incomplete: {error}. Run {sys.prefix}/bin/pip install -r "
        f"{__file__.rpartition('/')[0]}/requirements.txt, then start it again.\n"
    )
    sys.exit(78)  # EX_CONFIG: the unit does not restart for it

if __name__ == "__main__":
    sys.exit(main())
