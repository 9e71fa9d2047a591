"""Single values: what passes is what systemd takes and what a person meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.contract.configuration import limits, nspawn, values
from machines.contract.problems import BadValue

TAKEN = [
    (values.boolean, ["yes", "no", "true", "0", "on", "YES"]),
    (values.memory, ["0", "512M", "1.5G", "infinity", "50%", "12.5%", "1048576"]),
    (values.memory_limit, ["1M", "512M", "infinity", "100%"]),
    (values.cpu_quota, ["1%", "50%", "200%", "12.5%"]),
    (values.cpu_list, ["0", "0-3,7", "0 2 4"]),
    (values.absolute_path, ["/", "/srv/www", "/srv/with space", "/srv/Ünï"]),
    (values.interface, ["eth0", "br0", "ve-web", "a" * 15, "wlan0.5"]),
    (values.interface_pair, ["eth0", "eth0:lan"]),
    (values.zone, ["shop", "a" * 12, "a_b-c"]),
    (values.port, ["80", "8080:80", "tcp:8080:80", "udp:53", "udp:65535:1"]),
    (values.bind, ["/srv", "/srv:/data", "+/inside:/data", ":/tmp/x", "/a\\:b:/c", "/srv:/data:rootidmap", "/srv::norbind,idmap"]),
    (values.overlay, ["/a:/b", "/a:/b:/c", "+/a::/b"]),
    (values.mount_point, ["/tmp", "/tmp:size=10%,mode=1777"]),
    (values.environment, ["A=b", "_X=", "PATH=/bin:/sbin"]),
    (values.capabilities, ["CAP_NET_ADMIN", "CAP_NET_ADMIN CAP_SYS_TIME", "all"]),
    (values.signal_name, ["SIGTERM", "SIGRTMIN+3", "SIGRTMAX"]),
    (values.machine_id, ["0123456789abcdef0123456789abcdef", "01234567-89ab-cdef-0123-456789abcdef"]),
    (values.private_users, ["yes", "no", "pick", "identity", "managed", "524288", "524288:65536"]),
    (values.rlimit_size, ["infinity", "1024", "512:1024", "4G", "8M:infinity"]),
    (values.rlimit_count, ["0", "1024:524288"]),
    (values.rlimit_nice, ["+5", "-20", "0:40"]),
    (values.size, ["0", "512M", "infinity"]),
    (values.interface_pairs, ["eth0", "eth0:lan eth1"]),
    (values.interfaces, ["lo host0", "~eth0"]),
    (values.pivot_root, ["/new", "/new:/old"]),
    (values.ambient_capabilities, ["CAP_NET_RAW"]),
    (values.user_names, ["ada bob"]),
    (values.user, ["www-data", "1000"]),
    (values.shell, ["yes", "no", "/bin/bash"]),
    (values.quoted_words, ["a b", '"a b" c', "'it is' \"it's\""]),
    (values.system_calls, ["@keyring bpf", "~@mount"]),
    (values.address_families, ["AF_INET AF_UNIX", "~AF_NETLINK", "none"]),
    (values.time_span, ["90", "1min 30s", "200ms", "1.5h"]),
    (values.time_span_or_infinity, ["infinity", "5min"]),
    (values.percentage, ["0%", "50%", "99.5%"]),
    (values.device_rate, ["/dev/sda 5M", "/srv 1000"]),
    (values.device_weight, ["/dev/sda 200"]),
    (values.device_latency, ["/dev/sda 25ms"]),
    (values.device_access, ["/dev/kvm rw", "char-alsa", "block-loop rwm"]),
    (values.addresses, ["any", "10.0.0.0/8 ::1", "localhost 192.0.2.1"]),
    (values.socket_rule, ["any", "80", "tcp:80", "ipv6:udp:5000-6000", "ipv4", "ipv6:tcp"]),
    (values.units, ["systemd-nspawn@db.service srv.mount"]),
    (values.slice_unit, ["machine-team.slice", "-.slice"]),
    (values.nft_sets, ["cgroup:inet:filter:web"]),
    (values.documentation, ["https://wiki.example/x man:systemd.nspawn(5)"]),
    (values.hostname, ["web", "web-1.example"]),
]  # fmt: skip
REFUSED = [
    (values.boolean, ["", "ja", "2", "yess"]),
    (values.memory, ["", "much", "512MB", "512MiB", "512m", "512 M", "-1", "101%", "1,5G", "٥١٢M", "1e9"]),
    (values.memory_limit, ["0", "512", "1023K"]),
    (values.cpu_quota, ["150", "0%", "0.5%", "%", "-5%", "1 %", "٥٠%"]),
    (values.cpu_list, ["", "a", "0-", "0--3", ",1", "3-1"]),
    (values.absolute_path, ["", "srv", "~/x", "/srv/../etc", "/..", "/" + "a" * 1024]),
    (values.interface, ["", "a" * 16, "eth 0", "eth/0", "..", ".", "eth0:1", "all", "default", "7", "éth0"]),
    (values.interface_pair, ["eth0:", ":lan", "eth0:lan:more"]),
    (values.zone, ["", "a" * 13, "a.b", "a b"]),
    (values.port, ["", "0", "65536", "80:", "sctp:80", "80:80:80", "tcp:", " 80", "٨٠"]),
    (values.bind, ["srv", "/a:b", "/a:/b:weird", "/a:/b:idmap:x", "/a/../b"]),
    (values.overlay, ["/a", "a:b", "/a:/b:"]),
    (values.environment, ["A", "1A=b", "A B=c", "=x"]),
    (values.capabilities, ["NET_ADMIN", "cap_net_admin", "CAP_NOPE", "CAP_NET_ADMIN,CAP_SYS_TIME"]),
    (values.signal_name, ["TERM", "15", "SIG TERM", "SIGNOPE", "SIGRTMIN+31"]),
    (values.machine_id, ["", "xyz", "0" * 31, "0" * 32]),
    (values.private_users, ["maybe", "-1", "1:2:3", "12345678901", "65535", "524288:0", "4294967295"]),
    (values.rlimit_size, ["", "much", "1:2:3", "2:1", "+5"]),
    (values.rlimit_count, ["4G", "-1"]),
    (values.rlimit_nice, ["+20", "-21", "41", "40:0"]),
    (values.hostname, ["", "-a", "a-", "a_b", "a" * 65, "a..b"]),
    (values.size, ["50%", "much"]),
    (values.interface_pairs, ["", "eth0:", "eth0 a:b:c"]),
    (values.interfaces, ["~", "eth/0"]),
    (values.pivot_root, ["new", "/a:/b:/c"]),
    (values.mount_point, ["tmp", "/tmp:size=10%:x", "/tmp:a b"]),
    (values.ambient_capabilities, ["all"]),
    (values.user_names, ["", "a:b", "-a"]),
    (values.user, ["1a", "a b"]),
    (values.shell, ["bash", "/a/../b"]),
    (values.quoted_words, ["", "it's", '"a']),
    (values.system_calls, ["~", "Bpf", "a,b"]),
    (values.address_families, ["INET", "~", "AF_inet"]),
    (values.time_span, ["", "infinity", "5 fortnights", "-1"]),
    (values.percentage, ["50", "101%"]),
    (values.device_rate, ["/dev/sda", "sda 5M", "/dev/sda fast"]),
    (values.device_weight, ["/dev/sda 0", "/dev/sda 10001"]),
    (values.device_latency, ["/dev/sda soon"]),
    (values.device_access, ["/etc/passwd r", "kvm rw", "/dev/kvm x"]),
    (values.addresses, ["", "10.0.0.0/255.0.0.0", "nowhere"]),
    (values.socket_rule, ["", "tcp:", "tcp:0", "90-80", "tcp:ipv4", "icmp:1"]),
    (values.units, ["", "web", "a/b.service"]),
    (values.slice_unit, ["machine", "a--b.slice", "-a.slice"]),
    (values.nft_sets, ["user:inet:filter:web", "cgroup:inet:filter"]),
    (values.documentation, ["wiki"]),
    (values.words, ["", "  "]),
]  # fmt: skip
CHECKS = sorted({check for check, _ in TAKEN + REFUSED} | {s.check for s in nspawn.SETTINGS.values()} | {p.check for p in limits.PROPERTIES.values()}, key=repr)  # fmt: skip


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in TAKEN for text in texts])
def test_it_takes(check, text):
    check(text)
    values.one_line(text)


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in REFUSED for text in texts])
def test_it_refuses(check, text):
    with pytest.raises(BadValue):
        check(text)


@given(st.text(max_size=300))
def test_every_check_either_passes_or_says_a_sentence(text):
    for check in CHECKS:
        said = _refusal(check, text)
        assert said[-1:] in {"", ".", "?"}, said


def _refusal(check: values.Check, text: str) -> str:
    try:
        check(text)
    except BadValue as problem:
        return problem.message
    return ""


@pytest.mark.parametrize(
    "text", ["a\nb", "a\rb", "a\0b", "a\x1b[1m", "a\\", "a\u2028b", "a\u2029b", "a\x85b", "a" * 2049]
)
def test_one_line_refuses_what_could_reach_the_next_line(text):
    with pytest.raises(BadValue):
        values.one_line(text)


@given(st.text())
def test_what_is_one_line_stays_one_setting(text):
    """Whatever one_line() lets pass can be written and is read back as exactly one value, beside its neighbour."""
    try:
        values.one_line(text)
    except BadValue:
        return
    document = nspawn.parse(f"[Exec]\nParameters={text}\nBoot=no\n")
    assert document.get("Exec", "Boot") == ["no"]
    assert document.last("Exec", "Parameters") == text.strip(" \t")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=4))
def test_colons_in_paths_survive(paths):
    parts = values.split_colons(":".join(values.escape_colons(path) for path in paths))
    assert [values.unescape_colons(part) for part in parts] == paths


@pytest.mark.parametrize(
    ("text", "size"),
    [("1K", 1024), ("1.5G", 1610612736), ("512M", 536870912), ("7", 7), ("2T", 2 << 40), ("1 MiB", 1 << 20)],
)
def test_sizes(text, size):
    assert values.size_in_bytes(text) == size


def test_a_size_that_is_too_small_asks_back():
    with pytest.raises(BadValue, match="Did you mean 512M"):
        values.memory_limit("512")


def test_a_unit_systemd_does_not_know_is_corrected():
    with pytest.raises(BadValue, match="Write 512M:"):
        values.memory("512 mb")


@given(
    st.from_regex(r"[A-Z_]{1,5}", fullmatch=True),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"], exclude_characters="\\"), max_size=20),
)
def test_a_variable_comes_back_from_its_two_fields(name, value):
    row = nspawn.SETTINGS["Exec.Environment"].row
    line = row.join([name, value])
    values.environment(line)
    assert values.unquoted(line) == [f"{name}={value}"]
    assert row.split(line) == [name, value]


def test_words_are_what_systemd_makes_of_them():
    assert values.unquoted('a "b c" \'d e\'f  ""') == ["a", "b c", "d ef", ""]
    assert values.unquoted('"a') is None
    assert values.unquoted(r'"a\" b"') == [r"a\" b"]


def test_several_variables_in_one_line_are_left_as_they_are():
    row = nspawn.SETTINGS["Exec.Environment"].row
    assert row.join(row.split("A=1 B=2")) == "A=1 B=2"
