"""What a peer may do on an association with us."""

from typing import Final, Literal, get_args

Right = Literal["store", "query", "commit", "report"]
"""Send objects and notices; ask; have storage commitment asked for it; tell what it has committed itself to.

Verification needs none of them.
"""
RIGHTS: Final[frozenset[Right]] = frozenset(get_args(Right))
