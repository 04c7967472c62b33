"""The claims, in the order of the table; each is a module of this folder."""

from __future__ import annotations

from benchmarks.claims import confusion, labelling, loss, predicting, training
from benchmarks.comparing import Claim

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for room in (labelling, training, predicting, loss, confusion)
    for claim in room.CLAIMS
}
