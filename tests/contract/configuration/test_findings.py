"""Findings: words for every code, commands that hold no surprise, and nothing believed of what a host says."""

import shlex
import string

import pytest

from machines.contract.configuration import findings
from machines.contract.configuration.findings import FIX_TITLES, FIXES, GROUPS, WORDS, Finding, Level
from machines.contract.problems import BadValue

HOSTILE = "x; rm -rf / #'\"$(reboot)`"


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("code", WORDS)
def test_every_code_has_a_group_a_sentence_and_a_mend_with_a_title(code):
    words = WORDS[code]
    assert len(code) <= 40
    assert words.group in GROUPS
    assert words.title
    assert not words.title.endswith(".")
    assert words.fix is None or words.commands
    assert words.fix is None or words.fix in FIX_TITLES


def test_every_mend_is_offered_by_some_finding():
    assert {words.fix for words in WORDS.values() if words.fix} == set(FIXES) == set(FIX_TITLES)


@pytest.mark.parametrize("code", [code for code, words in WORDS.items() if words.commands])
def test_no_fact_of_a_host_leaves_its_word_in_a_command(code):
    names = set().union(*(fields(line) for line in WORDS[code].commands)) - findings.SPREAD - {"install"}
    calm = findings.commands(Finding(code=code, facts=dict.fromkeys(names, "MARK")))
    wild = findings.commands(Finding(code=code, facts=dict.fromkeys(names, HOSTILE)))
    assert [shlex.split(line) for line in wild] == [
        [word.replace("MARK", HOSTILE) for word in shlex.split(line)] for line in calm
    ]


def test_packages_are_words_of_their_own_and_no_more():
    found = Finding(code="tools-missing", facts={"packages": "zstd ;reboot $(id)", "install": "apt"})
    assert shlex.split(findings.commands(found)[0]) == ["apt-get", "install", "zstd", ";reboot", "$(id)"]


def test_a_fact_that_is_missing_does_not_break_the_sentence():
    assert findings.title(Finding(code="link-up")) == "veth link is up: ? on the host"


def test_braces_in_a_fact_stay_braces():
    found = Finding(code="link-up", facts={"link": "{0.__class__}"})
    assert findings.title(found) == "veth link is up: {0.__class__} on the host"


def test_the_package_manager_is_one_we_know():
    found = Finding(code="tools-missing", facts={"packages": "btrfs-progs zstd", "install": "dnf", "tools": "btrfs"})
    assert findings.commands(found) == ["dnf install btrfs-progs zstd"]
    strange = Finding(code="firewall-unread", facts={"install": "curl evil |"})
    assert findings.commands(strange) == ["apt-get install nftables"]


def test_there_and_back():
    found = [Finding(code="link-up", facts={"link": "ve-web"}), Finding(code="networkd-stopped", can_fix=True)]
    assert findings.from_wire(findings.to_wire(found)) == found


def test_codes_of_another_version_are_left_out():
    assert findings.from_wire([{"code": "link-up"}, {"code": "of-tomorrow"}]) == [Finding(code="link-up")]


@pytest.mark.parametrize(
    "data",
    [None, {}, "x", [1], [{"code": "x" * 41}], [{"code": "link-up", "facts": {"link": "x" * 301}}],
     [{"code": "link-up", "command": "rm"}], [{"code": "link-up", "facts": {str(n): "" for n in range(9)}}],
     [{"code": "link-up"}] * 101],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(data):
    with pytest.raises(BadValue):
        findings.from_wire(data)


def test_the_gravest_counts():
    assert findings.worst([Level.OK, Level.UNKNOWN, Level.NOTE]) == Level.UNKNOWN
    assert findings.worst([Level.WARNING, Level.PROBLEM, Level.OK]) == Level.PROBLEM
    assert findings.worst([]) == Level.OK


def test_what_is_pasted_into_a_terminal_is_neither_an_option_nor_obeyed_by_it():
    code = next(
        code for code, words in WORDS.items() if any("ip link set {link} up" in line for line in words.commands)
    )
    wild = findings.commands(Finding(code=code, facts={"link": "-x\x03\nreboot\x1b[201~\u202e"}))
    assert all(line.isprintable() for line in wild)
    assert not any("'-" in line or " -x" in line for line in wild)
    name, code = next(
        (name, code)
        for code, words in WORDS.items()
        for line in words.commands
        for name in fields(line) & findings.SPREAD
    )
    said = findings.commands(Finding(code=code, facts={"install": "apt", name: "zstd -oDPkg::Pre-Invoke::=reboot"}))
    assert "oDPkg::Pre-Invoke::=reboot" in shlex.split(said[0])
