"""What our writer writes, as systemd's own parsers of two releases take it: 10,000 settings files and as many drop-ins.

systemd is asked about many at once: of a key that stands there twice it reads both, and it names the line of what it
does not take. So documents are put one behind the other, and what it says is laid at the door of the one it is about.
"""

import json
import re

import pytest

from machines.contract.configuration import command_line, limits, nspawn
from machines.host.machine import lint
from tests.documents import many, written
from tests.host.scratch_panel import ScratchPanel

DOCUMENTS = 5_000  # on each of the two hosts
TOGETHER = 20
ONCE = re.compile(r"(?m)^(?:Boot|ProcessTwo)=.*$")  # each excludes the other, also that of another document
# Runs on the host: the stock unit's parser on every file, four at a time; prints {file: what was said}.
ASK = """
import json, os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
files = json.load(open("/var/tmp/documents.json"))
os.makedirs("/run/systemd/nspawn", exist_ok=True)
def ask(name):
    path = f"/run/systemd/nspawn/{name}.nspawn"
    with open(path, "w") as out:
        out.write(files[name])
    try:
        done = subprocess.run(["systemd-nspawn", *%(flags)r, f"--machine={name}", "--directory=%(nowhere)s"],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    finally:
        os.unlink(path)
    assert done.returncode == 1, done  # it read the file and then stopped, for want of a tree at the latest
    return name, [line for line in done.stderr.splitlines() if path in line]
with ThreadPoolExecutor(4) as pool:
    told = list(pool.map(ask, files))
json.dump({name: lines for name, lines in told if lines}, sys.stdout)
"""
FLAGS = ["--quiet", "--register=no", "--keep-unit", *command_line.STOCK]
VERIFY = """
import json, os, subprocess, sys
units = json.load(open("/var/tmp/units.json"))
base = "/var/tmp/units"
for unit, dropins in units.items():
    os.makedirs(f"{base}/{unit}.d")
    with open(f"{base}/{unit}", "w") as out:
        out.write("[Service]\\nExecStart=/bin/true\\n")
    for name, text in dropins.items():
        with open(f"{base}/{unit}.d/{name}.conf", "w") as out:
            out.write(text)
done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--generators=no", *(f"{base}/{unit}" for unit in units)],
                      capture_output=True, text=True, timeout=120)
json.dump([line for line in done.stderr.splitlines() if base in line and ".conf" in line], sys.stdout)
"""


@pytest.fixture(params=["scratch", "later"], ids=["252", "257"])
def on(request: pytest.FixtureRequest) -> tuple[ScratchPanel, int]:
    return request.getfixturevalue(request.param), 252 if request.param == "scratch" else 257


def documents_of(newest: int) -> list[str]:
    """Each read back by our reader as it was meant."""
    made = []
    for wanted in many(nspawn.SETTINGS, newest, DOCUMENTS, seed=newest):
        text = written(nspawn.SETTINGS, wanted)
        again = nspawn.parse(text)
        assert {name: again.get(*name.split(".")) for name in wanted} == wanted
        assert nspawn.check(again) == []
        made.append(text)
    return made


def test_systemd_takes_every_settings_file_we_write(on: tuple[ScratchPanel, int]) -> None:
    panel, newest = on
    made = documents_of(newest)
    files = {f"np-all-{i}": together(made[i : i + TOGETHER]) for i in range(0, DOCUMENTS, TOGETHER)}
    files |= {
        f"np-once-{i}": f"[Exec]\n{line}\n" for i, line in enumerate({x for text in made for x in ONCE.findall(text)})
    }
    panel.sandbox.write("/var/tmp/documents.json", json.dumps(files))
    said = panel.sandbox.run(["python3", "-c", ASK % {"flags": FLAGS, "nowhere": lint.NOWHERE}], timeout=180).stdout
    told = json.loads(said)
    assert told == {}, [blamed(files, name, line) for name, lines in told.items() for line in lines][:10]


def together(texts: list[str]) -> str:
    """One file of many documents; the host's port of one may not be that of another."""
    ports: set[str] = set()
    lines = []
    for line in ONCE.sub("", "\n".join(texts)).splitlines():
        port = ":".join(line.removeprefix("Port=").removeprefix("tcp:").split(":")[: 2 if "udp:" in line else 1])
        if line.startswith("Port=") and (port in ports or ports.add(port)):
            continue
        lines.append(line)
    return "\n".join(lines)


def blamed(files: dict[str, str], name: str, line: str) -> str:
    number = int(line.split(".nspawn:")[1].split(":", maxsplit=1)[0])
    return f"{files[name].splitlines()[number - 1]} — {line}"


def test_systemd_takes_every_drop_in_we_write(on: tuple[ScratchPanel, int]) -> None:
    panel, newest = on
    units: dict[str, dict[str, str]] = {}
    for i, wanted in enumerate(many(limits.PROPERTIES, newest, DOCUMENTS, seed=newest)):
        text = limits.dropin({name: "\n".join(lines) for name, lines in wanted.items()})
        assert limits.read(text) == {
            name: "\n".join(map(limits.PROPERTIES[name].normal, lines)) for name, lines in wanted.items()
        }
        assert limits.check(text) == []
        units.setdefault(f"np-all-{i // 100}.service", {})[f"{i:05}"] = text
    panel.sandbox.write("/var/tmp/units.json", json.dumps(units))
    told = json.loads(panel.sandbox.run(["python3", "-c", VERIFY], timeout=180).stdout)
    panel.sandbox.run(["rm", "-r", "/var/tmp/units"])
    assert told == [], told[:10]
