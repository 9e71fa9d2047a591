"""Where messages travel: the task's name, the queues, the streams, and what a Redis user may touch.

Every host has a key prefix of its own, so that its Redis user can be confined to it (kombu's `global_keyprefix`). All of it lies in database 0.
"""

import contextlib
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

TASK = "carry_out"
POKE = "np:poke"  # the web process says "there is work"; losing one costs a second


def prefix(host_id: str) -> str:
    return f"np:h:{host_id}:"


def queue(host_id: str) -> str:
    return f"host.{host_id}"


def stream(host_id: str) -> str:
    """The Redis stream on which the host reports."""
    return f"{prefix(host_id)}evt"


# Whoever holds a user's password has these commands and no others, so there is none that nobody needs. Facts, seen with
# MONITOR and ACL LOG on Redis 7.0.15 and Valkey 9.1.2 with redis-py 8.1 and kombu 5.7: a worker sends PING, BRPOP, XADD and
# MEMORY USAGE, by which it knows to wait until its last reports have been taken; one of an older release also LLEN, in MULTI
# and EXEC, and BRPOP with kombu's queues of other priorities. HELLO, AUTH, RESET and QUIT are everybody's. SELECT is sent
# for another database than 0 only, where no rule on keys would hold back whoever fills it. CLIENT SETINFO, sent from
# Redis 7.2 on, is refused, and redis-py takes no notice.
_NOTHING = ("resetkeys", "resetchannels", "clearselectors", "-@all")


# What a host may write is its stream alone: a key of the wrong kind in its mailbox's place would stop the courier.
def host_acl(host_id: str) -> list[str]:
    """ACL rules of one host's Redis user (Redis ≥ 7.0: selectors)."""
    q = f"{prefix(host_id)}{queue(host_id)}"
    return [
        *_NOTHING, "+ping", "+multi", "+exec",
        f"(+brpop ~{q}*)",
        f"(+llen %R~{q}*)",
        f"(+xadd %W~{stream(host_id)})",
        f"(+memory|usage %R~{stream(host_id)})",
    ]  # fmt: skip


def courier_acl() -> list[str]:
    """ACL rules of the courier: it alone fills the hosts' mailboxes, reads their streams and empties both."""
    return [
        *_NOTHING, "+ping", "+multi", "+exec", "+client|no-evict",
        "(+lpush +llen +del ~np:h:*:host.*)",
        "(+xread +xinfo|stream +memory|usage %R~np:h:*:evt)",
        "(+xtrim +del ~np:h:*:evt)",
        f"(+brpop ~{POKE})",
    ]  # fmt: skip


def guard_acl() -> list[str]:
    """ACL rules of the user with which the courier shuts a greedy host out. Whoever may change users may make one that
    may do anything, so this one does nothing else."""
    return [
        *_NOTHING, "+ping", "+client|no-evict", "+acl|list", "+acl|setuser", "+acl|deluser", "+acl|save", "+client|list", "+client|kill", "+config|get",
        "+config|rewrite",
    ]  # fmt: skip


def web_acl() -> list[str]:
    """ACL rules of the web process: it may poke the courier, nothing else."""
    return [*_NOTHING, "+ping", f"(+lpush +ltrim ~{POKE})"]


def user(host_id: str) -> str:
    """The Redis user of a host."""
    return f"np-h-{host_id}"


def host_of(user_name: str) -> UUID | None:
    """The host that a Redis user is for."""
    with contextlib.suppress(ValueError):
        return UUID(user_name.removeprefix("np-h-")) if user_name.startswith("np-h-") else None
    return None


def other_database(url: str) -> str:
    """The database of a Redis address where it is not 0, which alone is used; else ""."""
    parts = urlsplit(url)
    asked = dict(parse_qsl(parts.query))
    path = parts.path.strip("/") if parts.scheme in {"redis", "rediss"} else ""  # else it is that of a socket
    named = asked.get("db", asked.get("virtual_host", path))
    return "" if named in {"", "0"} else named
