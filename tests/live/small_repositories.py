"""Repositories made inside a sandbox host with the distributions' own tools: a whole bootable system as one package, and
a few small ones. What is in the system is a Debian, which neither rpm nor pacman minds."""

from nspawnpanel.sandbox import Sandbox

SEED = "/var/lib/machines/seed"  # where Sandbox.plant() puts the system to be packed
PORT = 8123
OUTSIDE = f"http://repository.invalid:{PORT}"  # reached only through the proxy that serve() is too
GNUPG = "/srv/gnupg"

# What the builders install by name, and /bin/sh for the scripts: all in one package.
PROVIDES = (
    "/bin/sh", "filesystem", "systemd", "systemd-networkd", "systemd-resolved", "systemd-network", "dbus", "dbus-1",
    "iproute", "iproute2", "util-linux", "util-linux-systemd", "shadow", "dnf", "zypper", "glibc-minimal-langpack",
    "fedora-release-container", "openSUSE-release", "ca-certificates", "ca-certificates-mozilla", "rpm", "pam",
)  # fmt: skip
LEFT_OUT = ("./usr/share/doc", "./var/lib/apt", "./var/cache/*", "./usr/share/perl*", "./usr/lib/*/perl*", "./var/lib/dpkg",
            "./proc/*", "./sys/*", "./dev/*", "./run/*", "./tmp/*", "./etc/resolv.conf")  # fmt: skip
UNPACK = f"tar -C {SEED} -c {' '.join(f'--exclude={path}' for path in LEFT_OUT)} . | tar -x -C"

QUIET = """\
AutoReqProv: no
%global _binary_payload w1.gzdio
%global __os_install_post %{nil}
%global debug_package %{nil}
"""
SYSTEM = f"""\
Name: tiny-system
Version: 1
Release: 1
Summary: A whole small system that boots
License: none
Provides: {", ".join(PROVIDES)}
{QUIET}
%description
%{{summary}}.
%install
mkdir -p %{{buildroot}}
{UNPACK} %{{buildroot}}
printf 'ID=fedora\\nNAME="Tiny Linux"\\nPRETTY_NAME="Tiny Linux 43"\\nVERSION_ID=43\\n' > %{{buildroot}}/usr/lib/os-release
find %{{buildroot}} -mindepth 1 -maxdepth 1 -printf '/%%P\\n' > files
%post
test -c /dev/null
test -e /proc/self
echo it ran > /var/lib/tiny-system
%files -f %{{_builddir}}/files
%defattr(-,root,root)
"""
COMPS = """\
<comps><group><id>words</id><name>Words</name><description>All words</description><default>false</default>
<uservisible>true</uservisible><packagelist><packagereq type="mandatory">farewell</packagereq></packagelist>
</group></comps>
"""
SERVER = """\
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

class Handler(SimpleHTTPRequestHandler):
    def translate_path(self, path):
        return super().translate_path(urlsplit(path).path)

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def word(name: str, needs: str = "") -> str:
    """The spec of a small package."""
    return f"""\
Name: {name}
Version: 2.0
Release: 3
Summary: A word
License: none
BuildArch: noarch
{QUIET}{f"Requires: {needs}" if needs else ""}
%description
%{{summary}}.
%install
mkdir -p %{{buildroot}}/usr/share/words
echo {name} > %{{buildroot}}/usr/share/words/{name}
%files
/usr/share/words/{name}
"""


def install(host: Sandbox, *packages: str) -> None:
    """The tools, from where the host has its own packages."""
    host.run(["apt-get", "update", "-qq"], timeout=120)
    host.run(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", "--", *packages], timeout=300)


def make_key(host: Sandbox, name: str) -> str:
    """A throw-away key; its public half as text."""
    gpg = ["gpg", "--homedir", GNUPG, "--batch", "--quiet"]
    host.run(["install", "-d", "-m", "700", GNUPG])
    host.run(
        [
            *gpg,
            "--passphrase",
            "",
            "--quick-generate-key",
            f"{name} <{name}@example.invalid>",
            "rsa2048",
            "sign",
            "never",
        ]
    )
    return host.run([*gpg, "--armor", "--export", name]).stdout.strip()


def make_rpms(host: Sandbox, folder: str, specs: list[str], key: str = "") -> None:
    """Packages of these specs, signed by `key` if one is named, with an index."""
    defines = ["--define=_topdir /srv/rpmbuild", f"--define=_rpmdir {folder}"]
    for number, spec in enumerate(specs):
        host.write(f"/srv/specs/{number}.spec", spec)
        host.run(["rpmbuild", "-bb", *defines, f"/srv/specs/{number}.spec"], timeout=120)
    if key:
        found = host.run(["find", folder, "-name", "*.rpm"]).stdout.split()
        signing = [f"--define=_gpg_name {key}", f"--define=_gpg_path {GNUPG}", "--define=__gpg /usr/bin/gpg"]
        host.run(["rpmsign", *signing, "--addsign", *found])
    host.write("/srv/specs/comps.xml", COMPS)
    host.run(["createrepo_c", "--quiet", "--groupfile=/srv/specs/comps.xml", folder])


def serve(host: Sandbox) -> None:
    """Everything below /srv over HTTP on loopback, also as a proxy that finds it under any other name."""
    host.write("/srv/server.py", SERVER)
    host.run(["systemd-run", "--quiet", "--unit=repositories", "--working-directory=/srv", "--",
              "/opt/nspawnpanel/bin/python", "/srv/server.py", str(PORT)])  # fmt: skip
    wait = (
        "import socket, sys, time\nwhile socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1]))): time.sleep(0.02)"
    )
    host.run(["/opt/nspawnpanel/bin/python", "-c", wait, str(PORT)], timeout=10)
