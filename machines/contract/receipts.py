"""What a host's receipt of an order says under its hash and its signature (contract/chain.py).

Each order that was written down ends with one, in the same transaction: numbered without holes in a generation of the host,
chained, signed with the host's key, kept in its ledger and told with the outcome. So panel and host can be compared: an order
that the panel never gave has a receipt and no job, a job whose receipt is missing was not carried out, or not there.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any
from uuid import UUID

from machines.contract import chain
from machines.contract.reports import Receipt

CANCELLED_BEFORE = "cancelled-before"  # in place of an operation: a cancel that overtook its order


@dataclass(frozen=True)
class Origin:
    """Whose ledger it is in, and which job ended how and when (seconds since the epoch)."""

    host: UUID
    generation: int
    job: UUID
    outcome: str
    at: float


def digest(receipt: Receipt, of: Origin) -> str:
    """The hash it must have."""
    said = receipt.model_dump(mode="json", exclude={"previous", "hash", "signature"})
    return chain.link(receipt.previous, {**said, **asdict(of), "host": str(of.host), "job": str(of.job)})


def order_digest(order: Mapping[str, Any]) -> str:
    """SHA-256 of an order as it is sent, in hex, without what only the host can read."""
    return sha256(
        chain.canonical({name: value for name, value in order.items() if name != "sealed"}).encode()
    ).hexdigest()
