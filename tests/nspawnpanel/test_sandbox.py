"""The sandbox's pure parts: apt sources, requirements for another Python, names. Booting is in tests/live."""

import time
from pathlib import Path

import pytest

from nspawnpanel.sandbox import CommandFailed, Sandbox, SandboxError, apt, cgroups, claim, host, pool, trees
from nspawnpanel.sandbox.run import run


def test_a_named_mirror_wins() -> None:
    [source] = apt.debian("sid", "http://mine.example/d/")
    assert (source.uri, source.suite, source.components) == ("http://mine.example/d", "sid", ("main",))


@pytest.mark.parametrize(
    ("outside", "inside"),
    [
        ("http://127.0.0.1:3142/", "http://10.0.2.2:3142/"),
        ("http://user:pw@localhost:3142", "http://user:pw@10.0.2.2:3142"),
        ("http://proxy.example:3128", "http://proxy.example:3128"),
        ("false", "false"),
    ],
)
def test_the_outer_loopback_has_another_name_inside(outside: str, inside: str) -> None:
    assert apt.seen_from_inside(outside, "10.0.2.2") == inside


def test_only_settings_that_decide_reachability_are_carried_over() -> None:
    dump = (
        'APT::Architecture "amd64";\nAcquire::http::Proxy "http://localhost:8000";\n'
        'Acquire::Check-Valid-Until "false";\nDPkg::Pre-Install-Pkgs:: "/bin/true";\nAcquire::Retries "";\n'
    )
    assert apt.carried_over(dump, "10.0.2.2") == (
        'Acquire::http::Proxy "http://10.0.2.2:8000";\nAcquire::Check-Valid-Until "false";\n'
    )


def test_requirements_are_judged_by_the_trees_python() -> None:
    text = 'a==1 # why\n# no\nb==2; python_version >= "3.12"\nc==3 ; python_full_version < "3.11.3"\n'
    assert trees.requirements(text, "3.11.2") == ["a==1", "c==3"]
    assert trees.requirements(text, "3.13.5") == ["a==1", "b==2"]


def test_the_hosts_own_requirements_can_be_read() -> None:
    assert "async-timeout==5.0.1" in trees.requirements(trees.REQUIREMENTS.read_text(), "3.11.2")


@pytest.mark.parametrize("name", ["", "-a", "Alpha", "a/b", "a b", "a" * 32])
def test_a_name_is_checked_before_it_is_a_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="cannot name a sandbox"):
        Sandbox(name, tmp_path)


def test_a_sandbox_that_is_not_running_says_so(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="alpha is not running"):
        Sandbox("alpha", tmp_path).run(["true"])


def test_a_failed_command_is_told_with_its_words() -> None:
    with pytest.raises(CommandFailed, match=r"sh -c .* ended with status 3: no luck"):
        run(["sh", "-c", "echo no luck >&2; exit 3"])


def test_a_command_that_forks_is_ended_whole_when_time_is_up() -> None:
    with pytest.raises(SandboxError, match=r"did not end within 0\.2 seconds"):
        run(["sh", "-c", "sleep 60 & sleep 60"], timeout=0.2)


def test_time_is_up_even_while_somebody_else_holds_the_pipes() -> None:
    began = time.monotonic()
    with pytest.raises(SandboxError, match=r"did not end within 0\.2 seconds"):
        run(["sh", "-c", "setsid sleep 5 & sleep 60"], timeout=0.2)
    assert time.monotonic() - began < 3


def test_a_plain_folder_serves_where_there_is_no_btrfs(tmp_path: Path) -> None:
    pool.make(tmp_path / "one")
    (tmp_path / "one" / "file").write_text("text")
    pool.copy(tmp_path / "one", tmp_path / "two")
    pool.drop(tmp_path / "one")
    assert (tmp_path / "two" / "file").read_text() == "text"
    assert not (tmp_path / "one").exists()


def test_a_tree_that_cannot_be_cleared_away_stops_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = tmp_path / "pool" / "hosts"
    hosts.mkdir(parents=True)
    for name in ("bad", "good", "torn"):
        (hosts / name).mkdir()
        claim.take(hosts, name).note(keep=False)
    (hosts / ".torn.lock").write_text('{"keep": fal')
    plain = pool.drop

    def drop(path: Path) -> None:
        if path.name == "bad":
            raise SandboxError("Could not statfs caf\udce9")
        plain(path)

    said: list[str] = []
    monkeypatch.setattr(pool, "drop", drop)
    monkeypatch.setattr(cgroups, "leave_nothing", lambda _: None)
    host.sweep(tmp_path, said.append)
    assert sorted(path.name for path in hosts.iterdir()) == [".bad.lock", ".torn.lock", "bad", "torn"]
    assert said == ["bad, which a killed process left behind, could not be cleared away: Could not statfs caf?"]
    claim.take(hosts, "bad").release()  # nobody holds the name
