"""What our own check and this host's facts refuse, before systemd's parsers are asked (those: tests/live)."""

from dataclasses import replace

import pytest

from machines.contract.configuration import command_line, nspawn
from machines.contract.problems import Problem
from machines.host.files.nspawn_file import Files
from machines.host.machine import lint
from machines.host.policy.policy import Policy
from machines.host.system import guarded
from machines.host.system.faults import CommandFailed


@pytest.fixture
def quiet(programs):
    """systemd's parsers have nothing to say."""
    programs.says("systemd-nspawn", err=f"Failed to resolve path {lint.NOWHERE}: No such file or directory\n", status=1)
    programs.says("systemd-analyze")
    return programs


def check(paths, text: str, limits: str = "", found: Files = Files()) -> None:  # noqa: B008
    lint.check(paths, Policy(), "web", Files(text, limits), found)


@pytest.mark.parametrize(
    ("text", "limits", "words"),
    [
        ("[Exec]\nPrivateUsers=piick\n", "", "web.nspawn:2: PrivateUsers=piick"),
        ("[Exec]\nFoo=1\n", "", "not a setting"),
        ("[Exec]\nEnvironment=A=b\\\nPrivateUsers=pick\n", "", "backslash"),
        ("[Files]\nBind=/srv/no-such-folder\n", "", "does not exist"),
        ("[Network]\nPrivate=yes\nVirtualEthernet=yes\nBridge=br-none\n", "", "no bridge named br-none"),
        ("[Network]\nMACVLAN=eth-none\n", "", "no interface named eth-none"),
        ("", "[Service]\nCPUQuota=50\n", "percent sign"),
    ],
)
def test_it_refuses(paths, quiet, text, limits, words):
    with pytest.raises(Problem, match=words) as caught:
        check(paths, text, limits)
    assert caught.value.code == "config-refused"


def test_what_stands_there_already_is_not_held_against_the_draft(paths, quiet):
    old = "[Exec]\nFoo=1\n"
    check(paths, old + "Boot=yes\n", found=Files(old, ""))


def test_a_port_leads_to_one_machine(paths, quiet):
    (paths.machines / "db").mkdir()
    paths.nspawn_file("db").write_text("[Network]\nPort=tcp:8080:80\n")
    text = "[Network]\nPrivate=yes\nVirtualEthernet=yes\nPort=8080:81\n"
    with pytest.raises(Problem, match="is already used by db"):
        check(paths, text)
    (paths.machines / "db").rmdir()
    check(paths, text)


PORT = "[Network]\nPrivate=yes\nVirtualEthernet=yes\nPort=8080:81\n"


@pytest.mark.parametrize(
    ("folder", "tree", "runs"),
    [
        ("nspawn", "db", ()),
        ("probes", "db", ()),
        ("nspawn", "db.raw", ()),
        ("machines", "db.raw", ("--settings=trusted",)),
        ("", "db", ("--settings=override", "--network-veth", "--port=8080:80")),
        ("nspawn", "db", ("--network-veth",)),  # the command line says nothing of ports
    ],
)
def test_a_port_counts_wherever_its_machine_is_configured(paths, quiet, folder, tree, runs):
    (paths.machines / tree).mkdir()
    if folder:
        file = getattr(paths, folder) / "db.nspawn"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("[Network]\nPort=tcp:8080:80\n")
    line = command_line.parse(["systemd-nspawn", *(runs or command_line.STOCK)])
    with pytest.raises(Problem, match="is already used by db"):
        lint.check(paths, Policy(), "web", Files(PORT), Files(), unit_runs=lambda _: line)


@pytest.mark.parametrize(
    ("folder", "runs"), [("machines", command_line.STOCK), ("nspawn", ("--settings=no",)), ("nspawn", ("--port=90",))]
)
def test_a_port_that_systemd_takes_from_no_file_is_free(paths, quiet, folder, runs):
    (paths.machines / "db").mkdir()
    (getattr(paths, folder) / "db.nspawn").write_text("[Network]\nPort=tcp:8080:80\n")
    line = command_line.parse(["systemd-nspawn", *runs])
    stock = command_line.stock()
    lint.check(paths, Policy(), "web", Files(PORT), Files(), unit_runs=lambda name: line if name == "db" else stock)


def test_words_that_systemd_fills_in_at_the_start_are_not_held_against_a_draft():
    line = command_line.parse(["systemd-nspawn", "--boot", "--hostname=$NAME", "--settings=override", "$OPTIONS"])
    assert lint.flags(line) == ("--boot", "--settings=override")


def test_systemd_is_asked_with_the_flags_of_the_machine_s_own_unit(paths, quiet):
    line = command_line.parse(
        ["systemd-nspawn", "-bD", "/srv/x", "--template=/srv/y", "--network-bridge", "br0", "-U", "--new"]
    )
    lint.check(paths, Policy(), "web", Files("[Exec]\nHostname=flags\n"), Files(), unit_runs=lambda _: line)
    argv = quiet.calls()[0]
    assert {"--boot", "--network-bridge=br0", "--private-users=pick", "--settings=yes"} <= set(argv)
    assert not [word for word in argv if "template" in word or "/srv" in word or word == "--new"]


def test_any_word_of_the_parser_is_a_refusal_in_its_own_words(paths, programs):
    programs.says("systemd-nspawn", err="Cannot use --port= without private networking.\n", status=1)
    with pytest.raises(Problem) as caught:
        check(paths, "[Exec]\nHostname=silence\n")
    assert caught.value.details == "Cannot use --port= without private networking."
    argv = programs.calls()[0]
    assert {"--register=no", "--keep-unit", "--settings=override"} <= set(argv)
    assert not list(paths.probes.iterdir()), "the probe is gone"


def test_a_parser_that_does_not_run_approves_nothing(paths, programs):
    programs.says("systemd-nspawn", status=0)
    with pytest.raises(Problem, match="did not report"):
        check(paths, "[Exec]\nHostname=silence\n")
    (programs.folder / "systemd-nspawn").unlink()
    (programs.folder / "systemd-nspawn").write_text("#!/bin/sh\nkill -9 $$\n")
    (programs.folder / "systemd-nspawn").chmod(0o755)
    with pytest.raises(CommandFailed):
        check(paths, "[Exec]\nHostname=silence\n")


def test_a_drop_in_is_judged_with_the_stock_unit(paths, programs, monkeypatch, tmp_path):
    monkeypatch.setattr(lint, "TEMPLATES", (tmp_path,))
    (tmp_path / "systemd-nspawn@.service").write_text("[Service]\n")
    programs.says("systemd-analyze", err="something about another unit\n", status=1)
    assert lint.dropin_words(paths, "web", "[Service]\nMemoryMax=1G\n") == ["something about another unit"]
    programs.says("systemd-analyze", err="another.service: fine\n", status=0)
    assert lint.dropin_words(paths, "web", "[Service]\nMemoryMax=1G\n") == []
    argv = programs.calls()[0]
    assert "--recursive-errors=no" in argv
    assert argv[-1].endswith("/systemd-nspawn@web.service")


def test_documents_are_only_read(paths, quiet):
    check(paths, nspawn.mark("[Exec]\nBoot=yes\n", 1))
    assert not paths.nspawn_file("web").exists()


def test_every_link_on_the_way_to_a_source_is_seen(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "shared/hop").symlink_to("../real")
    (tmp_path / "start").symlink_to(tmp_path / "shared/hop")
    passed = list(guarded.steps(f"{tmp_path}/start"))
    assert f"{tmp_path}/shared/hop" in passed
    assert passed[-1] == f"{tmp_path}/real"
    (tmp_path / "round").symlink_to("round")
    assert len(list(guarded.steps(f"{tmp_path}/round"))) < 100


def test_a_source_below_what_another_machine_can_write_is_refused(paths, quiet, tmp_path):
    (tmp_path / "srv/shared/mine").mkdir(parents=True)
    (paths.machines / "db").mkdir()
    paths.nspawn_file("db").write_text(f"[Files]\nBind={tmp_path}/srv/shared\n")
    with pytest.raises(Problem, match="which db can write to"):
        lint.check(paths, Policy(bind_sources=(str(tmp_path),)), "web", Files(f"[Files]\nBind={tmp_path}/srv/shared/mine\n"), Files())  # fmt: skip


def test_a_source_in_the_machine_s_own_image_is_refused_wherever_that_lies(paths, quiet, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "web/srv").mkdir(parents=True)
    moved = replace(paths, images_before=(elsewhere,))
    wanted = Files(f"[Files]\nBind={elsewhere}/web/srv\n")
    with pytest.raises(Problem, match="this machine itself can write to"):
        lint.check(moved, Policy(bind_sources=(str(tmp_path),)), "web", wanted, Files())


def test_a_refusal_names_file_and_line(paths, quiet):
    with pytest.raises(Problem) as caught:
        check(paths, nspawn.mark("[Exec]\nBoot=yes\n[Network]\nPrivate=yes\nVirtualEthernet=yes\nBridge=br-none\n", 3))
    assert caught.value.details.startswith("web.nspawn:7: Bridge=br-none: There is no bridge")
    assert caught.value.hint


# What systemd-nspawn 252 makes of a file, tried line by line: one warning and uid 0 inside, or not even that.
TRAPS = {
    "a misspelt user namespace": "[Exec]\nPrivateUsers=piick\n",
    "a backslash that swallows the next line": "[Exec]\nEnvironment=A=b\\\nPrivateUsers=pick\n",
    "a section that is none": "[Bogus]\n[Exec]\nPrivateUsers=pick\n",
    "a section that is none, over a setting": "[Bogus]\nPrivateUsers=pick\n",
    "a second section that takes it back": "[Exec]\nPrivateUsers=pick\n[Files]\nReadOnly=no\n[Exec]\nPrivateUsers=no\n",
    "a key that is none": "[Exec]\nFooBar=1\n",
    "garbage": "[Exec]\nThis is garbage\n",
    "a capability that is none": "[Exec]\nDropCapability=CAP_NOPE\n",
    "a broken header": "[Files\nReadOnly=yes\n",
    "bytes that are no UTF-8": "[Exec]\n# caf\udce9\nBoot=yes\nHostname=caf\udce9\n",
    "a key before any section": "Boot=yes\n",
    "a section in another case": "[exec]\nBoot=yes\n",
    "a path that climbs": "[Files]\nBind=/usr/../etc:/mnt\n",
    "a relative path": "[Files]\nBind=etc:/mnt\n",
    "a source that is not there": "[Files]\nBind=/srv/no-such-folder:/mnt\n",
    "an option of binds that is none": "[Files]\nBind=/tmp:/mnt:shiny\n",
    "a variable whose value has spaces": "[Exec]\nEnvironment=GREETING=two words\n",
    "a quote that stays open": "[Exec]\nEnvironment='A=b\n",
    "a zone whose name is too long": "[Network]\nZone=thirteenchars\n",
    "a plain copy of resolv.conf": "[Exec]\nResolvConf=copy\n",
    "a time zone by name": "[Exec]\nTimezone=Europe/Berlin\n",
}


@pytest.mark.parametrize("text", TRAPS.values(), ids=TRAPS.keys())
def test_what_systemd_passes_over_is_refused_before_it_is_asked(paths, quiet, text):
    with pytest.raises(Problem) as caught:
        check(paths, text)
    assert caught.value.code == "config-refused"
    assert "--settings=override" not in str(quiet.calls())


def test_a_backslash_at_the_end_of_a_comment_swallows_nothing(paths, quiet):
    text = "[Exec]\n# see the manual \\\nPrivateUsers=identity\n"
    check(paths, text)
    assert nspawn.parse(text).last("Exec", "PrivateUsers") == "identity"


def test_a_parser_that_stops_without_a_word_has_not_agreed(paths, programs):
    programs.says("systemd-nspawn", status=1)
    programs.says("systemd-analyze")
    with pytest.raises(Problem, match="did not say why"):
        check(paths, "[Exec]\nHostname=silence\n")


def test_what_systemd_said_of_a_line_before_is_told_and_refuses_nothing(paths, quiet, monkeypatch):
    """Wherever the line stands now; the same words on a new line are a refusal."""
    said = {
        "[Exec]\nHostname=old_name\n": ["web.nspawn:2: Invalid hostname, ignoring: old_name"],
        "[Exec]\nBoot=yes\nHostname=old_name\n": ["web.nspawn:3: Invalid hostname, ignoring: old_name"],
        "[Exec]\nHostname=new_name\n": ["web.nspawn:2: Invalid hostname, ignoring: new_name"],
    }
    monkeypatch.setattr(lint, "nspawn_words", lambda _paths, _name, text, *_: said[text])
    old, moved, fresh = (Files(text, "") for text in said)
    told = lint.check(paths, Policy(), "web", moved, old)
    assert told == ["web.nspawn:3: Invalid hostname, ignoring: old_name"]
    for found in (old, Files()):
        with pytest.raises(Problem, match="new_name"):
            lint.check(paths, Policy(), "web", fresh, found)
