"""The users of Redis as the courier steers them: a host that is held back is off and has no connection left.

Only this uses the user np-guard (routes.guard_acl).
"""

import logging
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

import redis

from machines.contract import routes
from machines.panel.courier import bounded

log = logging.getLogger(__name__)

STRANGER = "default"  # whoever has connected and not said who it is
STRANGERS_AT_MOST = 500  # of the 10,000 connections that Redis takes unless it is told otherwise (maxclients)


@dataclass(frozen=True)
class Clients:
    """The connections of one user, and the bytes that Redis keeps for them."""

    count: int = 0
    size: int = 0


class Guard:
    """Raises redis.RedisError where Redis does not answer or the user may not."""

    def __init__(self, url: str, *, timeout: float) -> None:
        self._redis: Any = bounded.client(url, socket_timeout=timeout, socket_connect_timeout=timeout)
        self._renewed: set[UUID] = set()

    def follow(self, off: Collection[UUID], hosts: Collection[UUID]) -> set[UUID]:
        """Let the users of these hosts be on, but for those in `off`. Their passwords stay as they are. A user made by an
        older release gets the rules of this one. Returns the hosts that have a user and are none of these."""
        users = self._users()
        for host_id in hosts:
            name, is_off = routes.user(str(host_id)), host_id in off
            if name not in users:
                continue
            if host_id not in self._renewed:
                self._redis.execute_command("ACL", "SETUSER", name, *routes.host_acl(str(host_id)))
                self._renewed.add(host_id)
            if is_off and users[name]:
                self._redis.execute_command("ACL", "SETUSER", name, "off")
                self._redis.execute_command("CLIENT", "KILL", "USER", name)
                self._save()
            elif not is_off and not users[name]:
                self._redis.execute_command("ACL", "SETUSER", name, "on")
                self._save()
        found = {each for name in users if (each := routes.host_of(name))}
        return found - set(hosts)

    def shut(self, host_id: UUID) -> None:
        """Nobody is let in as this host any more, nor stays."""
        name = routes.user(str(host_id))
        self._redis.execute_command("ACL", "SETUSER", name, "off")
        self._redis.execute_command("CLIENT", "KILL", "USER", name)

    def dismiss(self, host_id: UUID) -> None:
        """A host's user is gone."""
        self._redis.execute_command("ACL", "DELUSER", routes.user(str(host_id)))
        self._save()

    def admit(self, host_id: UUID, password: str) -> None:
        """A host's user with this password, and no connection of whoever had the one before."""
        name, known = routes.user(str(host_id)), sha256(password.encode()).hexdigest()  # MONITOR would show it
        self._redis.execute_command("ACL", "SETUSER", name, "reset", "on", f"#{known}", *routes.host_acl(str(host_id)))
        self._redis.execute_command("CLIENT", "KILL", "USER", name)
        self._save()

    def _users(self) -> dict[str, bool]:
        """Users, and whether they are on."""
        lines = [line.decode().split() for line in self._redis.execute_command("ACL", "LIST")]
        return {words[1]: "on" in words for words in lines if len(words) > 2}

    def clients(self) -> dict[str, Clients]:
        """The connections of each user."""
        counts: dict[str, int] = defaultdict(int)
        sizes: dict[str, int] = defaultdict(int)
        for line in self._redis.execute_command("CLIENT", "LIST", "TYPE", "normal").decode().splitlines():
            said = dict(pair.split("=", 1) for pair in line.split(" ") if "=" in pair)
            counts[said.get("user", "")] += 1
            sizes[said.get("user", "")] += int(said.get("tot-mem", 0))
        return {user: Clients(count, sizes[user]) for user, count in counts.items()}

    def turn_away(self, user: str) -> None:
        """Close a user's connections."""
        self._redis.execute_command("CLIENT", "KILL", "USER", user)

    def configuration(self, names: Collection[str]) -> dict[str, str]:
        """What Redis is set to, of these; what it does not know is left out."""
        answer = self._redis.execute_command("CONFIG", "GET", *names)
        return {name.decode(): value.decode() for name, value in answer.items()}

    def _save(self) -> None:
        """Where Redis keeps its users; one that keeps them nowhere has the right ones again a second after its start."""
        try:
            self._redis.execute_command("ACL", "SAVE")
        except redis.ResponseError as error:
            if "acl" not in str(error).lower():
                raise
            try:
                self._redis.execute_command("CONFIG", "REWRITE")
            except redis.ResponseError as refused:
                log.warning("Redis keeps its users nowhere: %s", refused)
