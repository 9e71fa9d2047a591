"""A file chosen in a browser arrives on the panel, also when the network goes away meanwhile."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

SIZE = 30_000_000


@pytest.fixture
def chosen(tmp_path: Path) -> Path:
    file = tmp_path / "appliance.raw"
    file.write_bytes(os.urandom(SIZE))
    return file


def network(page: Page) -> Callable[..., None]:
    """Sets the network: so slow that a part takes about a second, and there or not."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    throughput = {"latency": 5, "downloadThroughput": 50e6, "uploadThroughput": 8e6}
    return lambda *, offline: session.send("Network.emulateNetworkConditions", {"offline": offline, **throughput})


def test_it_arrives_whole_though_paused_and_cut_off(page, seen, ada, chosen):
    page.goto("/archives/")
    page.set_input_files("#upload-file", chosen)
    expect(page.locator("#upload-format")).to_have_value("raw")
    there = network(page)
    there(offline=False)
    page.click("[data-upload-start]")
    said = page.locator(".upload-said")
    expect(said).to_contain_text("of 28.6\u00a0MiB ·", timeout=15_000)
    page.click("[data-upload-pause]")
    expect(said).to_contain_text("Paused at", timeout=15_000)
    there(offline=True)
    page.click("[data-upload-pause]")
    expect(said).to_contain_text("cannot be reached")
    there(offline=False)
    expect(said).to_contain_text("appliance.raw is complete", timeout=30_000)
    row = page.locator("#archive-table tr", has_text="appliance.raw")
    expect(row).to_contain_text("ready")
    sha256 = hashlib.sha256(chosen.read_bytes()).hexdigest()
    expect(row).to_contain_text(sha256[:12])
    [kept] = ada.rows("SELECT * FROM machines_archive WHERE title = 'appliance.raw'")
    assert (kept["sha256"], kept["size"], kept["format"]) == (sha256, SIZE, "raw")
    page.complaints[:] = [each for each in page.complaints if "ERR_INTERNET_DISCONNECTED" not in each]
    download(page, row, chosen)
    remove(page, row)


def download(page: Page, row, chosen: Path) -> None:
    with page.expect_download() as coming:
        row.get_by_label("Download appliance.raw").click()
    assert coming.value.suggested_filename == "appliance.raw"
    assert Path(coming.value.path()).read_bytes() == chosen.read_bytes()


def remove(page: Page, row) -> None:
    row.get_by_label("Remove appliance.raw…").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.locator("#archives")).not_to_contain_text("appliance.raw")
