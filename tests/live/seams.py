"""Kills between two steps: a host's Python processes are made to kill themselves before the n-th change they make.

A clock hits long steps only. This hits all alike, the rename of a finished tree as well as the minutes before it: a hook
of the interpreter (PEP 578) counts what changes something, and nothing in the code under test knows of it.
"""

from nspawnpanel.sandbox import Sandbox

ORDERS = "/run/seams"  # "ROLE N TEXT": who dies, and at which change that has to do with TEXT; N 0 only counts
COUNT = "/run/seams-count"
PACKAGES = "/opt/nspawnpanel/lib/python3*/site-packages"
HOOK = """
import os, signal, sys, threading

CHANGES = {"subprocess.Popen", "fcntl.ioctl", "fcntl.flock", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod",
           "os.chown", "os.link", "os.symlink", "os.truncate", "os.utime", "os.setxattr", "os.removexattr", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
state = {"armed": None, "count": 0}
lock = threading.Lock()
inside = threading.local()

def role():
    words = sys.orig_argv
    return "builder" if "machines.host.agent.unit_job" in words else "worker" if "machines.host" in words else ""

def changes(event, args):
    if args and "__pycache__" in str(args[0]):
        return False
    if event != "open":
        return event in CHANGES
    return bool(args[2] and args[2] & (WRITES | os.O_DIRECTORY))

def hook(event, args):
    if getattr(inside, "hook", False) or not changes(event, args):
        return
    inside.hook = True
    try:
        with lock:
            step(repr(args))
    finally:
        inside.hook = False

def step(change):
    try:
        with open("@ORDERS@") as file:
            who, number, *text = file.read().split()
    except (OSError, ValueError):
        state["count"] = 0
        return
    if who != role() or not all(word in change for word in text):
        return
    state["count"] += 1
    with open("@COUNT@", "w") as file:
        file.write(str(state["count"]))
    if state["count"] == int(number):
        os.unlink("@ORDERS@")
        os.kill(os.getpid(), signal.SIGKILL)

if role():
    sys.addaudithook(hook)
"""


def install(host: Sandbox) -> None:
    """For every process that starts from now on."""
    folder = host.run(["sh", "-c", f"echo {PACKAGES}"]).stdout.strip()
    host.write(f"{folder}/seams.py", HOOK.replace("@ORDERS@", ORDERS).replace("@COUNT@", COUNT))
    host.write(f"{folder}/seams.pth", "import seams\n")


def take_out(host: Sandbox) -> None:
    """Processes that start from now on count nothing."""
    host.run(["sh", "-c", f"rm -f {PACKAGES}/seams.py {PACKAGES}/seams.pth {ORDERS} {COUNT}"])


def arm(host: Sandbox, role: str, number: int, text: str = "") -> None:
    """From now on `role` ("worker" or "builder") dies before its change `number`, of those that have to do with `text`;
    with 0 its changes are counted."""
    host.run(["rm", "-f", COUNT])
    host.write(ORDERS, f"{role} {number} {text}")


def disarm(host: Sandbox) -> int:
    """How many changes there were."""
    host.run(["rm", "-f", ORDERS])
    said = host.run(["cat", COUNT], check=False).stdout.strip()
    return int(said or "0")
