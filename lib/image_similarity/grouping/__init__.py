"""Groups of images: what is the same picture again, and what belongs together. Arrays in, arrays out. No Spark, no
settings, no tables.

- ``local_scale``      when two nodes are near-duplicates: limits on a local scale
- ``near_duplicates``  the pairs within the limits, and the groups of a component
- ``components``       what pairs connect
- ``stars``            the groups of components whose distances fit into a matrix (``matrices``); ``large``: of others
- ``verdicts``         whether a picture from outside is in a collection
- ``isolation``        the odd ones out: what is like no other, and whose neighbours have another label
- ``digests``          what the groups of a component depend on

A *node* is a distinct content: identical files are one node. Nodes are numbered in the order of their names, so a tie
"by node" is a tie by name.
"""

import hashlib
from collections.abc import Iterable

__all__ = ["group_id"]


def group_id(fingerprint: str, metric: str, kind: str, level: int, members: Iterable[str]) -> str:
    """The name of a group: 32 hexadecimal digits, the same in every run for the same members (ids of images), in any
    order.
    """
    hashed = hashlib.blake2b(digest_size=16)
    for part in (fingerprint, metric, kind, str(level), *sorted(members)):
        encoded = part.encode("utf-8", "surrogatepass")
        hashed.update(len(encoded).to_bytes(8, "little") + encoded)
    return hashed.hexdigest()
