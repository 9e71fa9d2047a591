"""What a machine's unit really runs, and what holds then: hand-written drop-ins on real hosts of two releases."""

import re
from collections.abc import Iterator

import pytest

from machines.contract import orders
from machines.contract.configuration import command_line, compare_effective, file_policy, nspawn
from machines.contract.reports import Inventory, ObservedMachine
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

    def told(self, is_so) -> ObservedMachine:
        """The first thing its host tells of it from now on that is so."""
        self.panel.read()
        self.panel.reports = [each for each in self.panel.reports if each.kind != "observed_files"]
        self.panel.order(orders.Refresh())
        report = self.panel.until(
            lambda report: report.kind == "observed_files" and any(m.name == NAME and is_so(m) for m in report.machines)
        )
        return next(m for m in report.machines if m.name == NAME and is_so(m))

    def inventory(self, is_so) -> Inventory:
        """The first whole inventory from now on that is so."""
        self.panel.read()
        self.panel.reports = [each for each in self.panel.reports if each.kind != "inventory"]
        self.panel.order(orders.Refresh())
        return self.panel.until(lambda report: report.kind == "inventory" and is_so(report))


def test_a_drop_in_that_keeps_the_file_from_being_read_is_seen_before_and_after_the_start(on):
    on.clear()
    on.host.write(FILE, "[Exec]\nHostname=from-the-file\n")
    on.runs("--boot --settings=no --bind-ro=/usr/share:/opt/share -D /var/lib/machines/%i")
    stopped = on.told(lambda machine: "--settings=no" in machine.unit_command)
    assert stopped.run_command == []
    on.start()
    running = on.told(lambda machine: machine.run_command)
    line = command_line.parse(running.run_command)
    assert (line.reads_files, line.machine, line.directory) == (False, NAME, f"/var/lib/machines/{NAME}")
    leader = on.host.run(["machinectl", "show", NAME, "--property=Leader", "--value"]).stdout.strip()
    said = on.host.run(["nsenter", "--target", leader, "--uts", "hostname"]).stdout.strip()
    assert said == NAME  # and not what the file says
    assert running.inside["Files.BindReadOnly"].startswith("/opt/share read-only ")
    assert running.inside["Exec.PrivateUsers"] == "no"  # nothing on this line asks for a user namespace


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
    ("settings", "users"),
    [
        ("[Files]\nPrivateUsersOwnership=map\n", "no"),  # said alone, it turns the namespace off
        ("[Files]\nPrivateUsersChown=no\n", "no"),
        ("[Files]\nVolatile=overlay\n[Exec]\nPrivateUsers=identity\n", "identity"),
    ],
    ids=["owners mapped", "owners left", "volatile"],
)
def test_who_owns_the_files_also_says_whether_there_is_a_user_namespace(on, settings, users):
    on.clear()
    on.host.write(FILE, settings)
    on.start()
    told = on.told(lambda machine: machine.run_command and "Exec.PrivateUsers" in machine.inside)
    assert compare_effective.inside("Exec.PrivateUsers", [users], told.inside["Exec.PrivateUsers"])
    document = nspawn.parse(settings)
    assert file_policy.users_of(document, command_line.parse(told.run_command)) == users


def test_the_table_has_every_setting_and_option_that_this_systemd_has(on):
    """Its settings stand in the binary as Section.Key, its options in its help."""
    binary = (on.host.tree / "usr/bin/systemd-nspawn").read_bytes()
    has = {each.decode() for each in re.findall(rb"\b(?:Exec|Files|Network)\.[A-Z][A-Za-z]+(?=\0)", binary)}
    version = int(on.host.run(["systemctl", "--version"]).stdout.split()[1])
    assert len(has) > 50
    assert has - nspawn.SETTINGS.keys() == set()
    assert {name for name, setting in nspawn.SETTINGS.items() if setting.since <= version} - has == set()
    options = set(re.findall(r"--([a-z][a-z0-9-]+)", on.host.run(["systemd-nspawn", "--help"]).stdout))
    assert options - command_line.OPTIONS.keys() - {"no-pager"} == set()


def test_a_port_of_a_machine_configured_in_run_is_taken(on):
    on.clear()
    on.host.run(["rm", "-rf", "/etc/systemd/nspawn/web.nspawn", "/etc/systemd/system/systemd-nspawn@web.service.d"])
    on.host.write(f"/run/systemd/nspawn/{NAME}.nspawn", "[Network]\nPort=tcp:7123\n")
    configuration = orders.Configuration(revision=1, nspawn="[Network]\nVirtualEthernet=yes\nPort=7123\n", limits="")
    refused = on.panel.do(orders.Apply(name="web", configuration=configuration))
    on.host.run(["rm", f"/run/systemd/nspawn/{NAME}.nspawn"])
    assert refused.state == "failed"
    assert f"Port 7123/tcp of this host is already used by {NAME}" in str(refused.problem)


def test_a_limit_that_these_control_groups_do_not_know_is_told_before_and_while_it_runs(on):
    on.clear()
    on.host.write(f"{FOLDER}/limits.conf", "[Service]\nMemoryHigh=300M\nMemoryMax=400M\n")
    on.host.run(["systemctl", "daemon-reload"])
    on.start()
    told = on.told(lambda machine: machine.run_command and machine.shown.get("MemoryHigh") == str(300 << 20))
    group = on.host.run(
        ["systemctl", "show", f"systemd-nspawn@{NAME}", "--property=ControlGroup", "--value"]
    ).stdout.strip()
    files = {"MemoryHigh": "memory.high", "MemoryMax": "memory.max", "MemoryZSwapMax": "memory.zswap.max"}
    is_v2 = on.host.run(["test", "-e", "/sys/fs/cgroup/cgroup.controllers"], check=False).returncode == 0
    if not is_v2:
        group, files = f"/memory{group}", {**files, "MemoryMax": "memory.limit_in_bytes"}
    has = set(on.host.run(["ls", f"/sys/fs/cgroup{group}"]).stdout.split())
    assert {key for key in files if key not in told.lacks} == {key for key, file in files.items() if file in has}
    inventory = next(each for each in reversed(on.panel.reports) if each.kind == "inventory")
    assert {key for key in files if key in told.lacks} <= inventory.host.lacks.keys()
    assert inventory.host.lacks["ManagedOOMSwap"] == "systemd-oomd.service"


def test_an_image_of_a_name_that_no_machine_can_have_is_listed_with_the_reason_and_the_way_out(on):
    on.host.run(["mkdir", "-p", "/var/lib/machines/work_dev/usr"])
    told = on.inventory(lambda each: "work_dev" in each.host.unusable_images)
    assert "work_dev" not in [machine.name for machine in told.machines]
    command = told.host.unusable_images["work_dev"].partition("Rename it: ")[2]
    assert on.host.run(["systemd-nspawn", "--machine=work_dev", "/bin/true"], check=False).returncode != 0
    on.host.run(command.split())
    renamed = on.inventory(lambda each: "work-dev" in [machine.name for machine in each.machines])
    assert renamed.host.unusable_images == {}
    on.host.run(["machinectl", "remove", "work-dev"])
