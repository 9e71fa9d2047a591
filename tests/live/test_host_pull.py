"""Images by their address on a real host: systemd's own puller, a real signature, and what must be refused."""

from collections.abc import Iterator

import pytest

from machines.contract import orders
from machines.contract.configuration import nspawn
from machines.contract.recipes import FirstBoot, PullRecipe
from tests.host.scratch_panel import PYTHON, SERVICE, ScratchPanel

SERVER = "http://127.0.0.1:8099"
MAKE = """
mkdir -p /srv/images; cd /srv/images
tar -C /var/lib/machines/web --sort=name -cf good.tar .; gzip -1 -k good.tar; rm good.tar
cp good.tar.gz unlisted.tar.gz
mkdir t; echo x > t/file; ln -s /etc t/etc; tar -C t -cf evil.tar file etc
tar -C t --transform='s|file|etc/cron.d/evil|' -rf evil.tar file; gzip evil.tar
truncate -s 1G disk; mkfs.btrfs -q disk; mkdir -p /mnt/image; mount -o loop disk /mnt/image
cp -a /var/lib/machines/web/. /mnt/image/; umount /mnt/image; gzip -1 -c disk > disk.raw.gz; rm disk
sha256sum good.tar.gz evil.tar.gz disk.raw.gz > SHA256SUMS
export GNUPGHOME=/srv/keys; mkdir -m 700 $GNUPGHOME
gpg --batch --quiet --pinentry-mode loopback --passphrase '' --quick-gen-key 'images <images@example.org>' ed25519 sign 0
gpg --batch --quiet --detach-sign --output SHA256SUMS.gpg SHA256SUMS
echo '127.0.0.2 elsewhere.test' >> /etc/hosts
cat > /srv/images/elsewhere.py <<'END'
import http.server
TO = {"/number": "http://169.254.169.254/good.tar.gz", "/name": "http://elsewhere.test:8099/good.tar.gz",
      "/six": "http://[::ffff:127.0.0.2]:8099/good.tar.gz", "/good.tar.gz": "http://127.0.0.1:8099/good.tar.gz"}
class Elsewhere(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302 if self.path in TO else 404)
        self.send_header("Location", TO.get(self.path, "/"))
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 8098), Elsewhere).serve_forever()
END
systemd-run --quiet --unit=elsewhere python3 /srv/images/elsewhere.py
systemd-run --quiet --unit=images python3 -m http.server 8099 --bind 127.0.0.1 --directory /srv/images
for port in 8098 8099; do for try in $(seq 100); do
python3 -c "import socket; socket.create_connection(('127.0.0.1', $port))" 2>/dev/null && break; sleep 0.1; done; done
"""


@pytest.fixture(scope="module")
def panel(scratch: ScratchPanel) -> Iterator[ScratchPanel]:
    sh(scratch, MAKE, 120)
    scratch.sandbox.write("/etc/nspawnpanel/policy.toml", 'pull_addresses = ["public", "private", "127.0.0.1"]\n')
    sh(scratch, f"systemctl restart {SERVICE}")
    yield scratch
    sh(scratch, f"rm /etc/nspawnpanel/policy.toml; systemctl restart {SERVICE}")
    sh(scratch, "systemctl stop images elsewhere; rm -rf /srv/images /srv/keys /etc/systemd/import-pubring.gpg")


def sh(panel: ScratchPanel, script: str, seconds: float = 60) -> str:
    return panel.sandbox.run(["bash", "-ec", script], timeout=seconds).stdout


def trust_the_key(panel: ScratchPanel) -> None:
    sh(panel, "GNUPGHOME=/srv/keys gpg --export > /etc/systemd/import-pubring.gpg")


def pull(name: str, file: str = "good.tar.gz", *, start: bool = False, **how: str) -> orders.Build:
    recipe = PullRecipe.model_validate({"url": f"{SERVER}/{file}", **how})
    return orders.Build(
        name=name, recipe=recipe, first_boot=FirstBoot(locale="", timezone=""), start=start,
        configuration=orders.Configuration(revision=1, nspawn=nspawn.mark("[Exec]\nNotifyReady=yes\n", 1), limits=""),
    )  # fmt: skip


def nothing_left(panel: ScratchPanel, name: str) -> bool:
    found = sh(panel, "ls -A /var/lib/machines /etc/systemd/nspawn 2>/dev/null || true").split()
    return not [each for each in found if each.startswith((name, ".nspawnpanel-")) and "-base-" not in each]


def test_a_key_nobody_has_trusted_is_named_and_then_trusted(panel):
    refused = panel.do(pull("pulled"), 120)
    assert (refused.state, refused.problem["code"]) == ("failed", "key-unknown")
    assert "/etc/systemd/import-pubring.gpg" in refused.problem["hint"]
    assert nothing_left(panel, "pulled")
    trust_the_key(panel)
    job = panel.order(pull("pulled", start=True))
    made = panel.outcome(job, 120)
    assert (made.state, made.machine.state) == ("succeeded", "running"), made.problem
    assert made.result["sha256"] == sh(panel, "sha256sum /srv/images/good.tar.gz").split()[0]
    assert made.result["bytes"] > 50_000_000
    assert sh(panel, "cat /var/lib/machines/pulled/etc/hostname") == "pulled\n"
    assert [r for r in panel.reports if r.kind == "progress" and r.job == job]
    assert nothing_left(panel, "never")
    panel.do(orders.Terminate(name="pulled"))


def test_a_disk_image_becomes_a_machine_with_a_name_of_its_own(panel):
    trust_the_key(panel)
    made = panel.do(pull("disk-image", "disk.raw.gz", format="raw", start=True), 180)
    assert made.state == "succeeded", made.problem
    assert (made.machine.image_type, made.machine.state) == ("raw", "running")
    panel.do(orders.Terminate(name="disk-image"))
    script = (
        "mount -o loop,ro /var/lib/machines/disk-image.raw /mnt/image; cat /mnt/image/etc/hostname; umount /mnt/image"
    )
    assert sh(panel, script) == "disk-image\n"
    panel.do(orders.Remove(name="disk-image"))
    assert nothing_left(panel, "disk-image")


def test_a_sum_of_the_recipe_s_own_is_enough_and_a_wrong_one_is_refused(panel):
    right = sh(panel, "sha256sum /srv/images/unlisted.tar.gz").split()[0]
    assert panel.do(pull("summed", "unlisted.tar.gz", verify="sha256", sha256=right), 120).state == "succeeded"
    wrong = panel.do(pull("wrong", "unlisted.tar.gz", verify="sha256", sha256="0" * 64), 120)
    assert wrong.problem["code"] == "checksum-wrong"
    assert nothing_left(panel, "wrong")


@pytest.mark.parametrize(
    ("file", "how", "code"),
    [
        ("unlisted.tar.gz", {}, "checksum-wrong"),
        ("nothing.tar.gz", {}, "image-not-found"),
        ("evil.tar.gz", {}, "archive-refused"),
        ("good.tar.gz", {"format": "raw"}, "image-unusable"),
        ("good.tar.gz", {"verify": "none"}, "policy-refused"),
    ],
)
def test_it_refuses_and_leaves_nothing(panel, file, how, code):
    trust_the_key(panel)
    refused = panel.do(pull("refused", file, **how), 120)
    assert (refused.state, refused.problem["code"]) == ("failed", code), refused.problem
    assert nothing_left(panel, "refused")
    assert sh(panel, "ls /etc/cron.d 2>/dev/null | grep evil || true") == ""


def test_a_missing_signature_is_told_with_the_file_that_is_missing(panel):
    trust_the_key(panel)
    sh(panel, "mv /srv/images/SHA256SUMS.gpg /srv/images/aside")
    refused = panel.do(pull("unsigned"), 120)
    sh(panel, "mv /srv/images/aside /srv/images/SHA256SUMS.gpg")
    assert refused.problem["code"] == "signature-missing"
    assert f"{SERVER}/SHA256SUMS.gpg" in refused.problem["message"]


def test_a_server_that_is_away_is_told_as_passing(panel):
    refused = panel.do(pull("away", verify="signature", url="http://127.0.0.1:1/good.tar.gz"), 120)
    assert (refused.problem["code"], refused.problem["retryable"]) == ("image-unreachable", True)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("number", "127.0.0.1 redirects to 169.254.169.254, a link-local address or a cloud's metadata service"),
        ("name", "127.0.0.1 redirects to elsewhere.test, which resolves to 127.0.0.2, the host itself"),
        ("six", "127.0.0.1 redirects to ::ffff:127.0.0.2, which resolves to 127.0.0.2, the host itself"),
    ],
)
def test_a_redirect_to_where_no_image_may_come_from_ends_there(panel, file, words):
    order = pull("led-away", file, url=f"http://127.0.0.1:8098/{file}", verify="sha256", sha256="0" * 64)
    refused = panel.do(order, 120)  # with its sum: a list of sums that is missing could be what ends it first
    assert (refused.state, refused.problem["code"]) == ("failed", "policy-refused"), refused.problem
    assert words in refused.problem["message"]
    assert "pull_addresses" in refused.problem["hint"]
    assert nothing_left(panel, "led-away")


def test_a_redirect_to_where_images_may_come_from_is_followed(panel):
    right = sh(panel, "sha256sum /srv/images/good.tar.gz").split()[0]
    order = pull("followed", url="http://127.0.0.1:8098/good.tar.gz", verify="sha256", sha256=right)
    made = panel.do(order, 120)
    assert made.state == "succeeded", made.problem
    panel.do(orders.Remove(name="followed"))


def test_the_puller_has_no_other_way_out(panel):
    """Without the door not even the loopback of the host is there, whatever the program does."""
    script = f"""
import urllib.request
from machines.host.rootfs.steps import egress_proxy
from machines.host.system.run import run
TRY = ["python3", "-c", "import urllib.request as u; print(u.urlopen('{SERVER}/SHA256SUMS', timeout=5).status)"]
with egress_proxy.around(["127.0.0.1"], "{SERVER}/") as door:
    print(run(door.command(TRY), extra=door.variables).out.strip())
    print(run(door.command(TRY), codes=(0, 1)).tail.splitlines()[-1])
    print(run(door.command(["ip", "-brief", "address"])).out)
"""
    said = panel.sandbox.run(["env", "PYTHONPATH=/opt/nspawnpanel/src", PYTHON, "-c", script])
    through, past, addresses = said.stdout.split("\n", 2)
    assert (through, "Connection refused" in past) == ("200", True), said.stdout
    assert addresses.split() == ["lo", "UNKNOWN", "127.0.0.1/8", "::1/128"]
