"""What of a copied tree would be on the network twice."""

from machines.host.rootfs import clone


def test_addresses_of_the_tree_s_own_files_are_named(tmp_path):
    for path, text in {
        "etc/systemd/network/10-lan.network": "[Match]\nName=host0\n[Network]\nAddress=10.0.0.5/24\n#Address=10.0.0.9\nDHCP=no\n",
        "etc/systemd/network/10-lan.link": "[Link]\nMACAddress = 02:00:00:00:00:01\n",
        "etc/systemd/network/notes.txt": "Address=10.9.9.9\n",
        "etc/network/interfaces": "iface host0 inet static\n    address 10.0.0.6\n",
        "etc/NetworkManager/system-connections/lan.nmconnection": "[ipv4]\naddress1=10.0.0.7/24,10.0.0.1\n",
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert clone.fixed_addresses(tmp_path) == [
        "etc/systemd/network/10-lan.link gives 02:00:00:00:00:01",
        "etc/systemd/network/10-lan.network gives 10.0.0.5/24",
        "etc/network/interfaces gives 10.0.0.6",
        "etc/NetworkManager/system-connections/lan.nmconnection gives 10.0.0.7/24,10.0.0.1",
    ]


def test_a_tree_that_asks_for_its_address_is_fine(tmp_path):
    assert clone.fixed_addresses(tmp_path) == []
