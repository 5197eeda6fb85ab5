"""Rights on an association: a presentation context that a peer has no right to is not accepted.

What is refused so never leaves its sender. Storage and commitment are judged once more at each message: the library takes
a C-STORE on any context that was accepted, and both roles of commitment share one.

References
----------
PS3.8 section 9.3.3.2 (result 3: abstract syntax not supported); PS3.7 annex C.5 (0124: not authorized).
"""

from pydicom.uid import UID
from pynetdicom.pdu_primitives import A_ASSOCIATE

from dicom_io.contexts import COMMITMENT, STUDY_ROOT_FIND, VERIFICATION
from dicom_io.rights import Right

_NOBODYS = UID("1.2.840.10008.5.1.4.1.2.2.2")
"""Study Root Move: never offered here, and known to the library by this name; what it does not know is storage to it."""

_NEEDS: dict[str, frozenset[Right]] = {
    VERIFICATION: frozenset(),
    STUDY_ROOT_FIND: frozenset({"query"}),
    COMMITMENT: frozenset({"commit", "report"}),
}
"""SOP class -> rights of which one is needed; storage and notices need `_STORE`."""
_STORE: frozenset[Right] = frozenset({"store"})


def needed(sop_class_uid: str) -> frozenset[Right]:
    """Return the rights of which one gives access to a SOP class; empty: none is needed."""
    return _NEEDS.get(sop_class_uid, _STORE)


def deny(request: A_ASSOCIATE, rights: frozenset[Right]) -> tuple[Right, ...]:
    """Let the library negotiate contexts without a right as a class that nobody offers; return the rights that lack.

    The answer names a context by its number only, so the peer reads that its class is not supported.
    """
    lacking: set[Right] = set()
    for context in request.presentation_context_definition_list:
        wanted = needed(str(context.abstract_syntax))
        if wanted and not wanted & rights:
            lacking |= wanted
            context.abstract_syntax = _NOBODYS
    return tuple(sorted(lacking))
