"""Repositories made inside a sandbox host with the distributions' own tools: a whole bootable system as one package, and
a few small ones. What is in the system is a Debian, which neither rpm nor pacman minds."""

from nspawnpanel.sandbox import Sandbox, apt

SEED = "/var/lib/machines/seed"  # where Sandbox.plant() puts the system to be packed
PORT = 8123
OUTSIDE = f"http://repository.invalid:{PORT}"  # reached only through the proxy that serve() is too
GNUPG = "/srv/gnupg"

# What the builders install by name, and /bin/sh for the scripts: all in one package.
PROVIDES = (
    "/bin/sh", "filesystem", "systemd", "systemd-networkd", "systemd-resolved", "systemd-network", "dbus", "dbus-1",
    "iproute", "iproute2", "util-linux", "util-linux-systemd", "shadow", "dnf", "zypper", "glibc-minimal-langpack",
    "fedora-release-container", "openSUSE-release", "ca-certificates", "ca-certificates-mozilla", "pam",
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
# The host's own rpm as a package, for what a machine's rpm does with its database
RPM = f"""\
Name: rpm
Version: 4
Release: 1
Summary: The tool itself
License: none
{QUIET}
%description
%{{summary}}.
%install
mkdir -p %{{buildroot}}/usr/bin %{{buildroot}}/usr/lib/rpm %{{buildroot}}/etc/rpm
cp /usr/bin/rpm /usr/bin/rpmdb %{{buildroot}}/usr/bin/
cp /usr/lib/rpm/macros /usr/lib/rpm/rpmrc %{{buildroot}}/usr/lib/rpm/
echo '%%_dbpath /usr/lib/sysimage/rpm' > %{{buildroot}}/etc/rpm/macros
for file in $(ldd /usr/bin/rpm /usr/bin/rpmdb | grep -o '/lib[^ ]*' | sort -u); do
  test -e {SEED}$file || install -D -m 755 $file %{{buildroot}}/usr$file
done
cd %{{buildroot}}
find . ! -type d -printf '/%%P\\n' > %{{_builddir}}/files
%files -f %{{_builddir}}/files
"""
COMPS = """\
<comps><group><id>words</id><name>Words</name><description>All words</description><default>false</default>
<uservisible>true</uservisible><packagelist><packagereq type="mandatory">farewell</packagereq></packagelist>
</group></comps>
"""
SERVER = """\
import os
import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

class Handler(SimpleHTTPRequestHandler):
    def do_GET(self):
        folder, _, rest = urlsplit(self.path).path.lstrip("/").partition("/")
        if rest.startswith("pool/") and os.path.exists(f"{folder}/elsewhere"):
            self.send_response(302)
            self.send_header("Location", open(f"{folder}/elsewhere").read() + rest)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            super().do_GET()

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


def install(host: Sandbox, *packages: str, release: str = "") -> None:
    """The tools, from where the host has its own packages."""
    host.run(["apt-get", "update", "-qq"], timeout=120)
    quick = [
        "-o",
        "Dpkg::Options::=--force-unsafe-io",
        "-o",
        "Acquire::Languages=none",
        *([f"--target-release={release}"] if release else []),
    ]
    host.run(["apt-get", "install", *quick, "-qq", "--yes", "--no-install-recommends", "--", *packages], timeout=300)


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


def make_rpm_repositories(host: Sandbox, *more: str) -> None:
    """/srv/tiny, signed by the key tiny, also of `more` specs, and /srv/unsigned, whose one package nobody has signed."""
    words = [word("hello", needs="greeting"), word("greeting"), word("farewell"), word("broken", needs="nowhere")]
    make_rpms(host, "/srv/tiny", [SYSTEM, *words, *more], "tiny")
    make_rpms(host, "/srv/unsigned", [word("stranger")])


def make_signed_index(host: Sandbox, folder: str, key: str) -> None:
    """The packages of /srv/tiny once more, their index signed by `key`, which lies beside it as libzypp looks for it."""
    index, gpg = f"{folder}/repodata/repomd.xml", f"gpg --homedir {GNUPG} --batch --armor"
    signed = f"{gpg} --local-user {key} --detach-sign {index} && {gpg} --export {key} > {index}.key"
    host.run(["bash", "-euc", f"cp -r /srv/tiny {folder} && {signed}"])


def serve(host: Sandbox) -> None:
    """Everything below /srv over HTTP on loopback, also as a proxy that finds it under any other name."""
    host.write("/srv/server.py", SERVER)
    host.run(["systemd-run", "--quiet", "--unit=repositories", "--working-directory=/srv", "--",
              "/opt/nspawnpanel/bin/python", "/srv/server.py", str(PORT)])  # fmt: skip
    wait = (
        "import socket, sys, time\nwhile socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1]))): time.sleep(0.02)"
    )
    host.run(["/opt/nspawnpanel/bin/python", "-c", wait, str(PORT)], timeout=10)


def make_pacman_packages(host: Sandbox, folder: str, key: str) -> None:
    """core and extra for pacman, signed by `key`: base, which is the whole system, and a few small packages; stranger is
    not signed. The key becomes the host's idea of Arch Linux."""
    core, extra = (f"{folder}/{name}/os/x86_64" for name in ("core", "extra"))
    script = PACK.format(core=core, extra=extra, gnupg=GNUPG, key=key, unpack=UNPACK)
    host.run(["bash", "-euc", script], timeout=120)


PACK = """
mkdir -p {core} {extra}
pack() {{
  printf 'pkgname = %s\npkgver = 2.0-3\npkgdesc = A word\nurl = none\nbuilddate = 1\npackager = none\nsize = 1\narch = any\n' $1 > .PKGINFO
  if test $# -gt 1; then echo "depend = $2" >> .PKGINFO; fi
  tar -c .PKGINFO $(ls -A .INSTALL 2>/dev/null) * | gzip -1 > {core}/$1-2.0-3-any.pkg.tar.gz
}}
fresh() {{ rm -rf /srv/pack; mkdir -p /srv/pack; cd /srv/pack; }}
word() {{ fresh; mkdir -p usr/share/words; echo $1 > usr/share/words/$1; pack "$@"; }}
word hello greeting; word greeting; word stranger
fresh; {unpack} .
printf 'ID=arch\nNAME="Tiny Linux"\nPRETTY_NAME="Tiny Linux"\n' > usr/lib/os-release
printf 'post_install() {{\n  test -c /dev/null && test -e /proc/self && echo it ran > /var/lib/tiny-system\n}}\n' > .INSTALL
pack base
export GNUPGHOME={gnupg}
for name in hello greeting base; do gpg --batch --local-user {key} --detach-sign {core}/$name-2.0-3-any.pkg.tar.gz; done
repo-add --quiet {core}/core.db.tar.gz {core}/*.pkg.tar.gz
repo-add --quiet {extra}/extra.db.tar.gz 2>/dev/null
gpg --export {key} > /usr/share/keyrings/archlinux.gpg
gpg --with-colons --fingerprint {key} | awk -F: '/^fpr/ {{ print $10 ":4:" }}' > /usr/share/keyrings/archlinux-trusted
"""


def make_ubuntu(host: Sandbox, folder: str, key: str) -> None:
    """An archive as Ubuntu's, its release noble signed by `key`: the index is that of the host's own distribution, and
    its packages are found where that one has them."""
    [source] = [each for each in apt.debian(host.suite) if each.suite == host.suite]
    host.write(f"{folder}/elsewhere", f"{source.uri}/")
    host.run(["bash", "-euc", ARCHIVE.format(folder=folder, gnupg=GNUPG, key=key, suite=host.suite)], timeout=60)


ARCHIVE = """
mkdir -p {folder}/dists/noble/main/binary-amd64 {folder}/dists/noble/universe/binary-amd64
cd {folder}/dists/noble
/usr/lib/apt/apt-helper cat-file /var/lib/apt/lists/*_dists_{suite}_main_binary-amd64_Packages* > main/binary-amd64/Packages
: > universe/binary-amd64/Packages
{{
  printf 'Origin: Ubuntu\nLabel: Ubuntu\nSuite: noble\nCodename: noble\nArchitectures: amd64\nComponents: main universe\n'
  printf 'Date: %s\nSHA256:\n' "$(date -Ru)"
  for file in */binary-amd64/Packages; do
    printf ' %s %s %s\n' "$(sha256sum < $file | cut -d' ' -f1)" "$(stat -c %s $file)" $file
  done
}} > Release
gpg --homedir {gnupg} --batch --quiet --local-user {key} --clearsign --output InRelease Release
"""
