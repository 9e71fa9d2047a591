"""What a browser sends for the configuration form."""

DEFAULTS = {"network_mode": "veth", "boot": "on", "notify_ready": "on"}


def post(*, ports=(), binds=(), **fields) -> dict[str, str]:
    data = {name: str(value) for name, value in (DEFAULTS | fields).items() if value is not None}
    data |= {f"{name}-TOTAL_FORMS": str(len(rows)) for name, rows in (("ports", ports), ("binds", binds))}
    data |= {"ports-INITIAL_FORMS": "0", "binds-INITIAL_FORMS": "0"}
    for i, (protocol, outside, inside) in enumerate(ports):
        data |= {
            f"ports-{i}-protocol": protocol,
            f"ports-{i}-host_port": str(outside),
            f"ports-{i}-machine_port": str(inside),
        }
    for i, (source, target, ownership, read_only) in enumerate(binds):
        data |= {f"binds-{i}-source": source, f"binds-{i}-target": target, f"binds-{i}-ownership": ownership}
        data |= {f"binds-{i}-read_only": "on"} if read_only else {}
    return data
