"""A real host and the panel keep a ledger each, and they agree, until somebody alters one of them."""

import json

from nspawnpanel.sandbox import Sandbox
from nspawnpanel.stack import Stack
from tests.person import Person, until

NAME = "vouched-for"
READ = """
import json, sqlite3
rows = sqlite3.connect("/var/lib/nspawnpanel/ledger.db").execute("select id, outcome from jobs where name = 'vouched-for' order by taken")
print(json.dumps([[job, json.loads(outcome)["receipt"]] for job, outcome in rows if outcome]))
"""
PAGE = "/hosts/alpha/receipts/"


def test_what_a_host_has_carried_out_stands_in_both_ledgers(panel: Stack, alpha_host: Sandbox, ada: Person):
    alpha_host.plant(NAME)
    ada.sees(NAME, "stopped", 30)
    ada.succeed(ada.press("start", NAME))
    ada.end_of(ada.press("terminate", NAME))
    there = json.loads(alpha_host.run(["python3", "-c", READ]).stdout)
    here = ada.rows("SELECT * FROM machines_receipt WHERE machine = ? ORDER BY number", NAME)
    assert [receipt["op"] for _, receipt in there] == ["start", "terminate"]
    assert [receipt["hash"] for _, receipt in there] == [row["hash"] for row in here]
    assert [receipt["signature"] for _, receipt in there] == [row["signature"] for row in here]
    assert here[1]["previous"] == here[0]["hash"]
    assert [row["actor"] for row in here] == ["admin (administrator)"] * 2
    page = ada.get(PAGE)  # which may name what other tests have ordered behind the panel's back
    faults = page.partition("do not agree:")[2].partition("</ul>")[0]
    assert NAME not in faults, faults
    assert f">{NAME}<" in page
    words = ada.rows("SELECT kind, text FROM machines_event WHERE object_name = ? ORDER BY id", NAME)
    assert [row["kind"] for row in words] == ["job-requested", "job-ended"] * 2
    kinds = "('order-unknown', 'receipt-differs', 'receipt-missing', 'receipt-refused')"
    assert not ada.rows(f"SELECT text FROM machines_event WHERE kind IN {kinds} AND text LIKE ?", f"%{NAME}%")
    until(lambda: ada.rows("SELECT * FROM machines_eventseal"), 20)
