"""A host that was installed by the README's commands, on a Debian with nothing of ours."""

import json

from tests.person import until

UNIT = "nspawnpanel-host.service"


def test_a_host_joins_by_the_readme_and_the_panel_hears_it(ada, alpha_host):
    facts = lambda: json.loads(ada.rows("SELECT facts FROM machines_host WHERE name = 'alpha'")[0]["facts"])  # noqa: E731
    until(lambda: facts().get("os", "").startswith("Debian GNU/Linux 13"), 120, lambda: str(facts()))
    assert not facts().get("missing"), "the README installs every tool that a host is expected to have"
    assert alpha_host.run(["systemctl", "is-enabled", UNIT]).stdout.strip() == "enabled"
    assert alpha_host.run(["systemctl", "show", "--property=NRestarts", "--value", UNIT]).stdout.strip() == "0"
    assert alpha_host.failed() == []
