"""Where messages travel: the task's name, the queues, the streams, and what a Redis user may touch.

Every host has a key prefix of its own, so that its Redis user can be confined to it (kombu's `global_keyprefix`).
"""

TASK = "carry_out"
POKE = "np:poke"  # the web process says "there is work"; losing one costs a second


def prefix(host_id: str) -> str:
    return f"np:h:{host_id}:"


def queue(host_id: str) -> str:
    return f"host.{host_id}"


def stream(host_id: str) -> str:
    """The Redis stream on which the host reports."""
    return f"{prefix(host_id)}evt"


# A few harmless commands suffice for kombu with `ack_emulation` off and no exchange; no Lua, no publish, no other prefix.
# What a host may write is its stream alone: a key of the wrong kind in its mailbox's place would stop the courier.
# `client|setinfo` exists from Redis 7.2 only, and redis-py tolerates its absence.
def host_acl(host_id: str) -> list[str]:
    """ACL rules of one host's Redis user (Redis ≥ 7.0: selectors)."""
    q = f"{prefix(host_id)}{queue(host_id)}"
    return [
        "resetkeys", "resetchannels", "-@all", "+ping", "+hello", "+auth", "+client|setname", "+select",
        f"(+brpop +llen +multi +exec ~{q}*)",
        f"(+xadd +multi +exec %W~{stream(host_id)})",
    ]  # fmt: skip


def courier_acl() -> list[str]:
    """ACL rules of the courier: it alone fills the hosts' mailboxes and reads their streams."""
    return [
        "resetkeys", "resetchannels", "-@all", "+ping", "+hello", "+auth", "+client|setname", "+select", "+multi", "+exec",
        "(+lpush +llen +del +multi +exec ~np:h:*:host.*)",
        "(+xread +xlen +xtrim ~np:h:*:evt)",
        f"(+brpop ~{POKE})",
    ]  # fmt: skip


def web_acl() -> list[str]:
    """ACL rules of the web process: it may poke the courier, nothing else."""
    return [
        "resetkeys", "resetchannels", "-@all", "+ping", "+hello", "+auth", "+client|setname", "+select",
        f"(+lpush +ltrim ~{POKE})",
    ]  # fmt: skip
