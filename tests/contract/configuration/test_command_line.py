"""Command lines of systemd-nspawn as people's units have them, read as systemd reads them."""

import pytest

from machines.contract.configuration import command_line
from machines.contract.configuration.command_line import parse

NSPAWN = "/usr/bin/systemd-nspawn"


def of(text: str) -> command_line.CommandLine:
    return parse([NSPAWN, *text.split()])


def test_the_stock_unit_says_four_settings_and_deviates_in_nothing():
    line = of("--quiet --keep-unit --boot --link-journal=try-guest --network-veth -U --settings=override --machine=web")
    assert line.said == {
        "Exec.Boot": ["yes"], "Exec.LinkJournal": ["try-guest"], "Network.VirtualEthernet": ["yes"],
        "Network.Private": ["yes"], "Exec.PrivateUsers": ["pick"], "Files.PrivateUsersOwnership": ["auto"],
    }  # fmt: skip
    assert (line.machine, line.reads, line.deviates) == ("web", "override", False)


@pytest.mark.parametrize(
    ("text", "setting", "value"),
    [
        ("-bD /srv/x", "Exec.Boot", ["yes"]),
        ("--network-bridge=br0", "Network.Bridge", ["br0"]),
        ("--network-bridge br0", "Network.Bridge", ["br0"]),
        ("--network-bridge=br0", "Network.VirtualEthernet", ["yes"]),
        ("--network-zone=front", "Network.Private", ["yes"]),
        ("--bind=/a --bind /b:/c", "Files.Bind", ["/a", "/b:/c"]),
        ("--bind-ro=/a", "Files.BindReadOnly", ["/a"]),
        ("--volatile", "Files.Volatile", ["yes"]),
        ("--volatile=state", "Files.Volatile", ["state"]),
        ("--private-users", "Exec.PrivateUsers", ["yes"]),
        ("--private-users=no", "Exec.PrivateUsers", ["no"]),
        ("--private-users-chown", "Files.PrivateUsersOwnership", ["chown"]),
        ("--rlimit=RLIMIT_NOFILE=64:128", "Exec.LimitNOFILE", ["64:128"]),
        ("-p 80:8080", "Network.Port", ["80:8080"]),
        ("-p80", "Network.Port", ["80"]),
        ("-xn", "Exec.Ephemeral", ["yes"]),
        (
            "--network-vet",
            "Network.VirtualEthernet",
            ["yes"],
        ),  # the beginning of only two, one of them whole: ambiguous
        ("--ephem", "Exec.Ephemeral", ["yes"]),
    ],
)
def test_each_option_says_its_setting(text, setting, value):
    if text == "--network-vet":
        assert of(text).strange == ("--network-vet",)  # getopt refuses it too
        return
    assert of(text).said[setting] == value


def test_where_the_tree_is_and_what_it_is_called():
    line = of("-D /srv/x -M other --settings=no")
    assert (line.directory, line.machine, line.reads_files) == ("/srv/x", "other", False)


def test_options_nobody_knows_stand_there_as_they_are():
    line = of("--boot --frobnicate=yes -Y")
    assert line.strange == ("--frobnicate=yes", "-Y")
    assert line.deviates


def test_what_is_no_option_is_the_command_that_runs_instead_of_an_init():
    assert of("-D /srv/x /bin/sh -c true").strange == ("command: /bin/sh -c true",)


def test_variables_of_the_unit_are_no_command():
    line = of("--boot $OPTIONS")
    assert (line.strange, line.has_variables) == (("$OPTIONS",), True)
    assert not of("--boot --setenv=PRICE=5$$").has_variables


@pytest.mark.parametrize(
    ("argv", "known"),
    [
        (["/usr/bin/env", "SYSTEMD_NSPAWN_LOCK=0", NSPAWN, "--boot"], True),
        (["/bin/sh", "-c", "exec systemd-nspawn --boot"], False),
        (["/usr/local/bin/start-web"], False),
        ([], False),
    ],
)
def test_a_wrapper_is_passed_over_where_it_hands_the_words_on(argv, known):
    assert parse(argv).is_known is known


@pytest.mark.parametrize(
    ("settings", "file", "held"),
    [
        ("--settings=override --bind=/a", {"Files.Bind"}, {}),
        (
            "--settings=override --bind=/a",
            {"Files.TemporaryFileSystem"},
            {},
        ),  # the mounts of the file take all others away
        ("--settings=override --bind=/a", {"Network.Port"}, {"Files.Bind": ["/a"]}),
        ("--settings=override --capability=CAP_BPF", {"Exec.Capability"}, {"Exec.Capability": ["CAP_BPF"]}),
        ("--bind=/a", {"Files.Bind"}, {"Files.Bind": ["/a"]}),
        ("--settings=no --bind=/a", {"Files.Bind"}, {"Files.Bind": ["/a"]}),
    ],
)
def test_beside_a_file_a_whole_group_counts_or_goes(settings, file, held):
    assert of(settings).beside(file) == held


def test_without_override_the_command_line_outranks_whole_groups_of_the_file():
    line = of("--network-bridge=br0")
    assert "Network.Zone" in line.outranked
    assert "Network.Port" not in line.outranked
    assert of("--network-bridge=br0 --settings=override").outranked == frozenset()


def test_what_it_says_otherwise_than_the_stock_unit_is_named():
    line = of("--boot --link-journal=try-guest --settings=no --network-bridge=br0")
    assert line.deviations() == ["--settings=no", "--network-bridge=br0", "no -U"]  # a bridge brings its cable
