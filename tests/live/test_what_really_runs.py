"""What a machine's unit really runs, and what holds then: hand-written drop-ins on real hosts of two releases."""

from collections.abc import Iterator

import pytest

from machines.contract import command_line, orders, readback
from machines.contract.reports import FoundMachine
from tests.host.scratch_panel import ScratchPanel

NAME = "handmade"
FOLDER = f"/etc/systemd/system/systemd-nspawn@{NAME}.service.d"
FILE = f"/etc/systemd/nspawn/{NAME}.nspawn"
PREFIX = "/usr/bin/systemd-nspawn --quiet --keep-unit --machine=%i"


@pytest.fixture(scope="module", params=["scratch", "later"], ids=["252", "257"])
def on(request: pytest.FixtureRequest) -> Iterator["Handmade"]:
    panel = request.getfixturevalue(request.param)
    panel.sandbox.plant(NAME, "bookworm")
    machine = Handmade(panel)
    yield machine
    machine.clear()
    panel.sandbox.run(["machinectl", "remove", NAME])


class Handmade:
    """A machine whose unit and files an administrator writes by hand."""

    def __init__(self, panel: ScratchPanel) -> None:
        self.panel, self.host = panel, panel.sandbox

    def clear(self) -> None:
        # its first process alone: a systemd-nspawn of 257 that is killed leaves a mount that forbids the next start
        self.host.run(["machinectl", "kill", "--kill-whom=leader", "--signal=SIGKILL", NAME], check=False)
        self.host.run(["systemctl", "stop", f"systemd-nspawn@{NAME}"], check=False)
        self.host.run(["systemctl", "reset-failed", f"systemd-nspawn@{NAME}"], check=False)
        self.host.run(["rm", "-rf", FOLDER, FILE, f"/etc/systemd/system/systemd-nspawn@{NAME}.service"])
        self.host.run(["systemctl", "daemon-reload"])

    def runs(self, options: str) -> None:
        """Rewrite ExecStart= in a drop-in."""
        self.host.write(f"{FOLDER}/start.conf", f"[Service]\nExecStart=\nExecStart={PREFIX} {options}\n")
        self.host.run(["systemctl", "daemon-reload"])

    def start(self) -> None:
        done = self.host.run(["systemctl", "start", f"systemd-nspawn@{NAME}"], check=False)
        said = self.host.run(["journalctl", "--quiet", "-n", "5", f"--unit=systemd-nspawn@{NAME}"]).stdout
        assert done.returncode == 0, said

    def told(self, is_so) -> FoundMachine:
        """The first thing its host tells of it from now on that is so."""
        self.panel.read()
        self.panel.reports = [each for each in self.panel.reports if each.kind != "found"]
        self.panel.order(orders.Refresh())
        report = self.panel.until(
            lambda report: report.kind == "found" and any(m.name == NAME and is_so(m) for m in report.machines)
        )
        return next(m for m in report.machines if m.name == NAME and is_so(m))


def test_a_drop_in_that_keeps_the_file_from_being_read_is_seen_before_and_after_the_start(on):
    on.clear()
    on.host.write(FILE, "[Exec]\nHostname=from-the-file\n")
    on.runs("--boot --settings=no -D /var/lib/machines/%i")
    stopped = on.told(lambda machine: "--settings=no" in machine.unit_command)
    assert stopped.run_command == []
    on.start()
    running = on.told(lambda machine: machine.run_command)
    line = command_line.parse(running.run_command)
    assert (line.reads_files, line.machine, line.directory) == (False, NAME, f"/var/lib/machines/{NAME}")
    leader = on.host.run(["machinectl", "show", NAME, "--property=Leader", "--value"]).stdout.strip()
    said = on.host.run(["nsenter", "--target", leader, "--uts", "hostname"]).stdout.strip()
    assert said == NAME  # and not what the file says


def test_a_masked_unit_is_told_as_masked(on):
    on.clear()
    on.host.run(["systemctl", "mask", f"systemd-nspawn@{NAME}.service"])
    told = on.told(lambda machine: any(file.form == "masked" for file in machine.files))
    unit = next(file for file in told.files if file.kind == "unit")
    assert unit.path == f"/etc/systemd/system/systemd-nspawn@{NAME}.service"


def test_a_file_beside_a_tree_that_lies_elsewhere_is_found_there(on):
    on.clear()
    on.host.run(["mkdir", "-p", "/srv/trees/elsewhere"])
    on.host.write(f"/srv/trees/{NAME}.nspawn", "[Exec]\nHostname=beside\n")
    on.runs("--boot --settings=override -D /srv/trees/elsewhere")
    told = on.told(lambda machine: any(file.path == f"/srv/trees/{NAME}.nspawn" for file in machine.files))
    assert told.files[0].text == "[Exec]\nHostname=beside\n"
    on.host.run(["rm", "-r", "/srv/trees"])


@pytest.mark.parametrize(
    ("settings", "options", "users"),
    [
        ("PrivateUsersOwnership=map", "--boot -U --settings=override", "no"),  # said alone, it turns the namespace off
        ("ReadOnly=no", "--boot -U --settings=override", "pick"),
    ],
)
def test_who_owns_the_files_also_says_whether_there_is_a_user_namespace(on, settings, options, users):
    on.clear()
    on.host.write(FILE, f"[Files]\n{settings}\n")
    on.runs(options)
    on.start()
    told = on.told(lambda machine: machine.run_command and "Exec.PrivateUsers" in machine.inside)
    assert readback.inside("Exec.PrivateUsers", [users], told.inside["Exec.PrivateUsers"])
