"""A host that was installed by the README's commands, on a Debian with nothing of ours."""

import json

UNIT = "nspawnpanel-host.service"


def test_a_host_joins_by_the_readme_and_the_panel_hears_it(ada, alpha_host):
    host = ada.rows("SELECT * FROM machines_host WHERE name = 'alpha'")[0]
    assert json.loads(host["facts"])["os"].startswith("Debian GNU/Linux 13")
    assert "alpha" in ada.get("/hosts/")
    assert alpha_host.run(["systemctl", "is-enabled", UNIT]).stdout.strip() == "enabled"
    assert alpha_host.run(["systemctl", "show", "--property=NRestarts", "--value", UNIT]).stdout.strip() == "0"
    assert alpha_host.failed() == []
