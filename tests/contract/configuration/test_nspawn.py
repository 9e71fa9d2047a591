"""The .nspawn file: read without losing anything, changed without touching anything else."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from machines.contract.configuration import nspawn
from machines.contract.configuration.nspawn import NETWORK_MODES, SETTINGS, network_mode, parse, put_network

HAND_WRITTEN = """\
# my machine
[Exec]
Boot = true
; a note
Environment=A=1
Environment=B=2
X-Unknown=stays

[Network]
Private=yes
VirtualEthernet=yes
Zone=shop
Port=tcp:8080:80

[Files]
Bind=/srv/www:/var/www \x20
"""

# Pieces of which files are made, nasty ones included.
PIECES = st.sampled_from(
    ["[Exec]", "[Network]", "[Files]", "[]", "[Ex]ec]", "Boot=yes", "Boot=", "Port=80", "Port = tcp:53 ", "  Zone=a", "=", "a",
     "\\", "\\\\", "#", ";x\\", "\n", "\r\n", "\r", "\0", "\x0b", "\x0c", "\x85", "\u2028", "\ufeff", " ", "\t", "é", "Bind=/a\\"]
)  # fmt: skip
FILES = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=200)
KEYS = st.sampled_from([("Exec", "Boot"), ("Network", "Port"), ("Network", "Zone"), ("Files", "Bind")])
VALUES = st.lists(st.sampled_from(["yes", "80", "tcp:8080:80", "/srv", "a b"]), max_size=3)


@given(FILES)
@example("[Exec]\nFoo=a\\")
@example("no newline at the end")
@example("\ufeff[Exec]\r\nBoot=yes\r\n")
def test_text_to_document_to_text_is_the_same_text(text):
    assert parse(text).text() == text


@given(FILES, KEYS, VALUES)
@example("[Exec]\nBoot=yes", ("Exec", "Ephemeral"), ["no"])
@example("[Network]\nZone=a\\", ("Network", "Port"), ["80"])
@example("Zone=a\\\n#c", ("Network", "Port"), ["80"])
def test_put_sets_exactly_that_key(text, where, wanted):
    document = parse(text)
    names = {(e.section, e.key) for e in document.settings()} - {where}
    others = {name: document.get(*name) for name in names}
    document.put(*where, wanted)
    again = parse(document.text())
    assert again.get(*where) == wanted
    assert {name: again.get(*name) for name in names} == others


@given(FILES, KEYS)
def test_put_of_what_is_there_changes_no_byte(text, where):
    document = parse(text)
    document.put(*where, document.get(*where))
    assert document.text() == text


@given(FILES, KEYS, VALUES)
def test_put_keeps_every_comment_and_every_unknown_line(text, where, wanted):
    document = parse(text)
    kept = [e.raw for e in document.entries if (e.section, e.key) != where and e.raw.strip()]
    document.put(*where, wanted)
    left = iter(e.raw for e in document.entries)
    assert all(any(have.startswith(raw) for have in left) for raw in kept)


@given(FILES)
def test_dropping_empty_sections_drops_no_setting_and_no_comment(text):
    document = parse(text)
    before = [(e.section, e.key, e.value) for e in document.settings()]
    document.drop_empty_sections()
    assert [(e.section, e.key, e.value) for e in document.settings()] == before


def test_a_hand_written_file_is_understood():
    document = parse(HAND_WRITTEN)
    assert document.get("Exec", "Environment") == ["A=1", "B=2"]
    assert document.last("Files", "Bind") == "/srv/www:/var/www"
    assert network_mode(document) == ("zone", "shop")


def test_a_change_stays_where_the_setting_was():
    document = parse(HAND_WRITTEN)
    document.put("Network", "Port", ["tcp:8080:8000", "udp:53"])
    assert document.text() == HAND_WRITTEN.replace("Port=tcp:8080:80\n", "Port=tcp:8080:8000\nPort=udp:53\n")


def test_a_new_setting_goes_to_the_end_of_its_section():
    document = parse(HAND_WRITTEN)
    document.put("Exec", "Ephemeral", ["yes"])
    assert document.text() == HAND_WRITTEN.replace("X-Unknown=stays\n", "X-Unknown=stays\nEphemeral=yes\n")


def test_a_new_section_goes_to_the_end():
    document = parse("[Exec]\nBoot=yes\n")
    document.put("Network", "Port", ["80"])
    assert document.text() == "[Exec]\nBoot=yes\n\n[Network]\nPort=80\n"


def test_a_section_that_appears_twice_is_one():
    document = parse("[Exec]\nBoot=yes\n[Files]\n[Exec]\nBoot=no\n")
    assert document.get("Exec", "Boot") == ["yes", "no"]
    document.put("Exec", "Boot", ["yes"])
    assert document.text() == "[Exec]\nBoot=yes\n[Files]\n[Exec]\n"


def test_an_empty_assignment_resets_a_list():
    assert parse("[Network]\nPort=1\nPort=\nPort=2\n").get("Network", "Port") == ["2"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Bind=/a:\\\n/b\n", "/a: /b"),
        ("Bind=/a\\\n# skipped\\\n/b\n", "/a /b"),
        ("Bind=/a\\\n\nPort=80\n", "/a"),
        ("Bind=/a\\\\\nPort=80\n", "/a\\\\"),
        ("Bind=/a\x0cPort=80\n", "/a\x0cPort=80"),
        ("Bind=/a\u2028Port=80\n", "/a\u2028Port=80"),
        ("Bind=/a\rPort=80\n", "/a"),
        ("Bind=/a\\", "/a"),
    ],
)
def test_lines_end_where_they_end_for_systemd(text, value):
    assert parse(f"[Files]\n{text}").last("Files", "Bind") == value


def test_a_long_run_of_continued_lines_costs_little():
    text = "Foo=" + "a\\\n" * 40_000
    assert parse(text).text() == text


@pytest.mark.parametrize("mode", NETWORK_MODES)
def test_every_network_mode_is_written_and_read_back(mode):
    target = "br0" if NETWORK_MODES[mode].target else ""
    document = parse(HAND_WRITTEN)
    put_network(document, mode, target)
    again = parse(document.text())
    assert network_mode(again) == (mode, target)
    assert again.get("Network", "Port") == ["tcp:8080:80"]


def test_other_spellings_of_yes_are_the_same_mode():
    assert network_mode(parse("[Network]\nPrivate=1\nVirtualEthernet=on\n")) == ("veth", "")
    assert network_mode(parse("[Network]\nPrivate=true\nVirtualEthernet=yes\nBridge=br0\n")) == ("bridge", "br0")


def test_a_mode_that_holds_already_changes_no_byte():
    text = "[Network]\nVirtualEthernet=on\nPrivate=1\nZone=shop\n"
    document = parse(text)
    put_network(document, "zone", "shop")
    assert document.text() == text


def test_a_mixture_is_no_mode_of_ours():
    assert network_mode(parse("[Network]\nBridge=br0\nMACVLAN=eth0\n")) == ("other", "")
    assert network_mode(parse("[Exec]\nBoot=yes\n")) == ("", "")


def test_check_names_what_systemd_would_ignore():
    document = parse(
        "[Exec]\nBoot=perhaps\nFoo=1\n[exec]\nBoot=yes\n[Network]\nZone=a-zone-too-long\nPort=0\nPort=80\n"
    )
    assert [name for name, _ in nspawn.check(document)] == [
        "Exec.Boot", "Exec.Foo", "exec.Boot", "Network.Zone", "Network.Port",
    ]  # fmt: skip


def test_check_finds_nothing_wrong_with_what_we_write():
    document = parse("")
    for mode in NETWORK_MODES:
        put_network(document, mode, "br0")
        assert nspawn.check(document) == []


def test_every_setting_has_help_and_a_default_that_passes_its_check():
    for setting in SETTINGS.values():
        assert setting.help.endswith((".", ")."))
        if setting.default:
            setting.check(setting.default)


@given(st.text(max_size=100), st.integers(1, 10**6))
def test_our_first_line_comes_off_again(text, number):
    marked = nspawn.mark(text, number)
    assert nspawn.revision_of(marked) == number
    assert nspawn.unmark(marked) == nspawn.unmark(text)
    assert nspawn.mark(marked, number) == marked


def test_a_file_of_somebody_else_has_no_revision():
    assert nspawn.revision_of(HAND_WRITTEN) is None
    assert nspawn.unmark(HAND_WRITTEN) == HAND_WRITTEN


@pytest.mark.skipif(not Path("/usr/bin/systemd-nspawn").exists(), reason="no systemd-nspawn here")
def test_the_table_has_every_setting_of_the_systemd_on_this_machine():
    """gperf leaves them in the binary as Section.Key."""
    binary = Path("/usr/bin/systemd-nspawn").read_bytes()
    has = {each.decode() for each in re.findall(rb"\b(?:Exec|Files|Network)\.[A-Z][A-Za-z]+(?=\0)", binary)}
    assert "Files.PrivateUsersChown" in has
    assert has - nspawn.SETTINGS.keys() == set()
