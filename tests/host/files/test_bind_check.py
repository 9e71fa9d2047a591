"""What is judged at each start of a machine, and the drop-in by which it is."""

import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from machines.contract.configuration import command_line as lines
from machines.contract.configuration import nspawn
from machines.contract.configuration.findings import Level, level, means, title
from machines.host.agent import worker
from machines.host.doctor import bind_checks
from machines.host.doctor.facts import Facts
from machines.host.files import bind_check, nspawn_file
from machines.host.files.nspawn_file import Files
from machines.host.observe import command_line
from machines.host.policy import bind_dropin
from machines.host.policy.policy import Policy

WEB = "systemd-nspawn@web.service.d/10-nspawnpanel-binds.conf"


@pytest.fixture
def srv(tmp_path):
    folder = tmp_path / "srv"
    folder.mkdir()
    return folder


def said(paths, srv, text: str) -> str:
    (paths.nspawn / "web.nspawn").write_text(f"[Files]\n{text}\n")
    return "; ".join(bind_check.refusals(paths, Policy(bind_sources=(str(srv),)), "web"))


def test_a_start_with_the_binds_that_were_applied_goes_on(paths, srv):
    (srv / "data").mkdir()
    assert said(paths, srv, f"Bind={srv}/data:/data\nBindReadOnly=/usr/share\nBind=+/a:/b") == ""
    (paths.nspawn / "web.nspawn").unlink()
    assert not list(bind_check.refusals(paths, Policy(), "web"))


def test_what_gives_the_host_away_is_refused_whoever_wrote_the_line(paths, srv):
    (srv / "data").symlink_to("/etc")
    assert "/data leads to /etc" in said(paths, srv, f"Bind={srv}/data:/data")
    assert "No machine may" in said(paths, srv, f"Bind={paths.state}")


def applied(paths, text: str) -> None:
    nspawn_file.write(paths, "web", Files(nspawn=nspawn.mark(f"[Files]\n{text}\n", 1)))


def bend(link, to) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(to)


def test_a_link_out_of_the_allowed_folders_is_refused_and_an_administrators_own_path_is_not(paths, srv, tmp_path):
    line = f"Bind={srv}/data:/data"
    (tmp_path / "elsewhere").mkdir()
    (srv / "data").mkdir()
    applied(paths, line)
    (srv / "data").rmdir()
    bend(srv / "data", tmp_path / "elsewhere")
    why = said(paths, srv, line)
    assert f"it leads to {tmp_path}/elsewhere" in why
    assert why.endswith(f"It pointed to {srv}/data when it was recorded.")
    assert said(paths, srv, f"Bind={tmp_path}/elsewhere:/data") == ""


def test_what_is_applied_anew_makes_no_link_good_that_was_bent_since(paths, srv, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "run", lambda argv, timeout: None)
    line = f"Bind={srv}/data"
    applied(paths, line)
    bend(srv / "data", tmp_path)
    worker.guard_binds(paths)
    applied(paths, f"{line}\nReadOnly=yes")
    assert "it leads to" in said(paths, srv, line)


def test_a_link_of_an_administrator_that_led_out_before_starts_until_it_leads_elsewhere(paths, srv, tmp_path):
    for each in ("big", "other"):
        (tmp_path / each).mkdir()
    bend(srv / "data", tmp_path / "big")
    line = f"Bind={srv}/data"
    applied(paths, line)  # policy.allow_files passes a line that stood there
    assert said(paths, srv, line) == ""
    bend(srv / "data", tmp_path / "other")
    assert "it leads to" in said(paths, srv, line)
    (srv / "inside").mkdir()
    bend(srv / "data", srv / "inside")
    assert said(paths, srv, line) == ""
    bend(srv / "data", "/etc")
    assert "/etc" in said(paths, srv, line)


@pytest.mark.parametrize("earlier", [None, "[Service]\nExecStartPre=/opt/nspawnpanel/bin/python -I bind_check.py %i\n"])
def test_an_update_of_the_worker_loses_no_machine_whose_link_led_out_before(paths, srv, tmp_path, monkeypatch, earlier):
    monkeypatch.setattr(worker, "run", lambda argv, timeout: None)
    for each in ("big", "other"):
        (tmp_path / each).mkdir()
    bend(srv / "data", tmp_path / "big")
    line = f"Bind={srv}/data\nBind={srv}/later"
    (paths.nspawn / "web.nspawn").write_text(nspawn.mark(f"[Files]\n{line}\n", 1))
    if earlier:
        paths.binds_file("web").parent.mkdir()
        paths.binds_file("web").write_text(earlier)
    assert said(paths, srv, line) == ""  # nothing is known yet of where it led
    (paths.nspawn / "web.nspawn").write_text(nspawn.mark(f"[Files]\n{line}\n", 1))
    worker.guard_binds(paths)
    assert bind_dropin.remembered(paths, "web") == {f"{srv}/data": str(tmp_path / "big")}
    bend(
        srv / "later", tmp_path / "big"
    )  # was not there yet when the worker was updated, as on a disk mounted afterwards
    assert said(paths, srv, line) == ""
    bend(srv / "data", tmp_path / "other")
    assert "it leads to" in said(paths, srv, line)


def test_a_path_that_is_no_utf8_is_judged_as_what_it_is(paths, srv):
    bend(Path(f"{srv}/\udcff"), "/etc")
    (paths.nspawn / "web.nspawn").write_bytes(f"[Files]\nBind={srv}/\udcff:/x\n".encode(errors="surrogateescape"))
    assert list(bind_check.refusals(paths, Policy(), "web"))


def test_the_program_itself_fails_the_start_with_a_sentence(paths, srv, monkeypatch, capsys):
    (paths.nspawn / "web.nspawn").write_text("[Files]\nBind=/etc:/mnt\n")
    monkeypatch.setattr(bind_check, "Paths", lambda **_: paths)
    assert bind_check.main("web") == 1
    assert "web is not started: Bind=/etc:/mnt: /etc is" in capsys.readouterr().err
    (paths.nspawn / "web.nspawn").write_text("[Exec]\nHostname=web\n")
    assert bind_check.main("web") == 0
    assert capsys.readouterr().err == ""


def check_by_itself(source: Path) -> subprocess.CompletedProcess:
    """What the program says of the machine web when `source` is where its modules are."""
    program = source / "machines" / "host" / "files" / "bind_check.py"
    return subprocess.run([sys.executable, "-I", program, "web"], capture_output=True, text=True, check=False)


def test_a_worker_whose_modules_are_gone_keeps_no_machine_down(tmp_path):
    here = tmp_path / "machines" / "host" / "files"
    here.mkdir(parents=True)
    for package in (here, here.parent, here.parent.parent):
        (package / "__init__.py").touch()
    (here / "bind_check.py").write_bytes(bind_dropin.CHECK.read_bytes())
    ran = check_by_itself(tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr.startswith("The binds of web are not checked: ")
    assert len(ran.stderr.splitlines()) == 1


def test_settings_that_cannot_be_read_are_no_approval(paths, monkeypatch, capsys):
    (paths.nspawn / "web.nspawn").mkdir()
    monkeypatch.setattr(bind_check, "Paths", lambda **_: paths)
    assert bind_check.main("web") == 1
    assert "cannot be checked" in capsys.readouterr().err


def test_a_broken_policy_leaves_what_is_never_allowed(paths, srv, monkeypatch, capsys):
    paths.policy.write_text("nonsense")
    monkeypatch.setattr(bind_check, "Paths", lambda **_: paths)
    (paths.nspawn / "web.nspawn").write_text(f"[Files]\nBind={srv}\n")
    assert bind_check.main("web") == 0
    (paths.nspawn / "web.nspawn").write_text("[Files]\nBind=/etc\n")
    assert bind_check.main("web") == 1


# --- the drop-in


def test_it_comes_with_the_first_bind_and_goes_with_the_last(paths):
    bound, plain = nspawn.mark("[Files]\nBind=/srv\n", 1), nspawn.mark("[Exec]\nHostname=a\n", 2)
    assert nspawn_file.write(paths, "web", Files(nspawn=bound))
    text = (paths.units / WEB).read_text()
    assert text.splitlines()[-1].endswith("bind_check.py %i")
    assert '["/srv", "/srv"]' in text
    assert not nspawn_file.write(paths, "web", Files(nspawn=bound + "ReadOnly=yes\n"))
    assert nspawn_file.write(paths, "web", Files(nspawn=bound.replace("/srv", "/mnt")))
    assert list(bind_dropin.remembered(paths, "web")) == ["/mnt"]
    assert nspawn_file.write(paths, "web", Files(nspawn=plain))
    assert not (paths.units / WEB).parent.exists()


def test_a_file_made_by_hand_gets_none(paths):
    assert not nspawn_file.write(paths, "web", Files(nspawn="[Files]\nBind=/srv\n"))


def test_blanks_and_percent_signs_of_a_path_are_no_specifiers():
    assert bind_dropin._word("/a/100% x$y") == '"/a/100%% x$$y"'
    assert bind_dropin._word("/a/it's") == '"/a/it\'s"'


def run_line(monkeypatch, python: Path, check: Path) -> subprocess.CompletedProcess:
    """Runs the line of the drop-in as systemd would for the machine web."""
    monkeypatch.setattr(bind_dropin.sys, "executable", str(python))
    monkeypatch.setattr(bind_dropin, "CHECK", check)
    line = bind_dropin.text({}).splitlines()[-1].removeprefix("ExecStartPre=")
    argv = [word.replace("$$", "$").replace("%i", "web").replace("%%", "%") for word in shlex.split(line)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_line_fails_as_the_check_does_but_not_for_want_of_it(tmp_path, monkeypatch):
    folder = tmp_path / "it's 100% $HOME"
    folder.mkdir()
    python, check = folder / "python", folder / "check.py"
    python.write_text('#!/bin/sh\nprintf "%s|" "$@"; exit 3\n')
    check.touch()
    for mode, status in ((0o755, 3), (0o644, 0)):
        python.chmod(mode)
        ran = run_line(monkeypatch, python, check)
        assert ran.returncode == status
        assert ran.stdout == (f"-I|{check}|web|" if status else "")
    python.chmod(0o755)
    check.unlink()
    ran = run_line(monkeypatch, python, check)
    assert ran.returncode == 0
    assert ran.stderr == f"The binds of web are not judged: {python} or {check} is gone.\n"


def test_no_path_however_odd_is_more_than_a_comment():
    led = {"/a\n[Service]\nExecStart=/x\\": "/ü\udcff\\", "/b": "/c d"}
    text = bind_dropin.text(led)
    assert text.isascii()
    assert [line for line in text.splitlines() if not line.startswith("# ")] == text.splitlines()[-2:]
    assert bind_dropin.written_down(text + "# [somebody's\n# [1, 2]\n# [1]\n") == led


def test_what_is_written_down_is_bounded_and_what_had_no_room_may_not_lead_out(paths, srv, tmp_path):
    text = bind_dropin.text({f"/srv/{number}": "/x" * 2000 for number in range(200)})
    assert len(text) < bind_dropin.LED_LIMIT + 10_000
    paths.binds_file("web").parent.mkdir()
    paths.binds_file("web").write_text(text)
    bend(srv / "data", tmp_path)
    assert "it leads to" in said(paths, srv, f"Bind={srv}/data")


def test_a_worker_that_is_updated_writes_those_that_are_missing_but_breaks_no_machine(paths, srv, monkeypatch):
    ran = []
    monkeypatch.setattr(worker, "run", lambda argv, timeout: ran.append(argv))
    for name, text in {
        "web": nspawn.mark(f"[Files]\nBind={srv}\n", 1), "bad": nspawn.mark("[Files]\nBind=/etc\n", 1),
        "hand": f"[Files]\nBind={srv}\n", "plain": nspawn.mark("[Exec]\nBoot=yes\n", 1),
    }.items():  # fmt: skip
        (paths.nspawn / f"{name}.nspawn").write_text(text)
    worker.guard_binds(paths)
    assert [str(file.relative_to(paths.units)) for file in paths.units.rglob("*.conf")] == [WEB]
    assert len(ran) == 1
    worker.guard_binds(paths)
    assert len(ran) == 1


def test_a_host_tells_which_machines_have_a_bind_that_none_may_have(paths, srv):
    (paths.nspawn / "web.nspawn").write_text(f"[Files]\nBind={srv}\n")
    (paths.nspawn / "hand.nspawn").write_text("[Files]\nBind=/etc:/x\n")
    told = bind_dropin.told(paths)
    assert list(told) == ["hand"]
    assert told["hand"].startswith("Bind=/etc:/x: /etc is protected: configuration that root's programs read.")


# --- the doctor


@pytest.fixture
def examined(paths, monkeypatch):
    """What the doctor finds of machines whose units run this command line."""

    def of(command: str = "") -> list:
        line = lines.parse([*lines.STOCK_ARGV, *command.split()])
        monkeypatch.setattr(command_line, "read", lambda _bus, _name: line)
        host = SimpleNamespace(paths=paths, bus=None, slow=SimpleNamespace(images={}))
        return list(bind_checks.of_host(Facts(host=host, task=SimpleNamespace(check_stop=lambda: None))))

    return of


def test_the_doctor_finds_binds_made_by_hand(paths, srv, examined):
    for name, text in {"web": f"[Files]\nBind={srv}\n", "db": "[Files]\nBind=/etc:/x\n"}.items():
        (paths.machines / name).mkdir()
        (paths.nspawn / f"{name}.nspawn").write_text(text)
    (found,) = examined()
    assert (level(found), title(found)) == (Level.PROBLEM, "db: Bind=/etc:/x exposes the host")
    assert "configuration that root's programs read" in means(found)


def test_the_doctor_knows_the_command_line_of_a_unit(paths, srv, examined):
    (paths.machines / "web").mkdir()
    (found,) = examined("--bind=/etc:/x")
    assert level(found) == Level.PROBLEM


def test_without_a_user_namespace_root_inside_writes_as_root_and_the_doctor_says_so(paths, srv, examined):
    (paths.machines / "web").mkdir()
    text = f"[Exec]\nPrivateUsers=no\n[Files]\nBind={srv}\nBindReadOnly=/usr/share\nBindReadOnly={srv}:/x\n"
    (paths.nspawn / "web.nspawn").write_text(text)
    assert [(level(each), title(each).split(",")[0]) for each in examined()] == [
        (Level.WARNING, f"web: Bind={srv}"), (Level.WARNING, "web: BindReadOnly=/usr/share"),
    ]  # fmt: skip


def test_a_host_without_such_binds_is_fine(examined):
    assert [each.code for each in examined()] == ["binds-fine"]
