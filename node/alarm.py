"""Alarms reach a person twice: as a line of the log, once, and in `status` for as long as they stand."""

import structlog

from dicom_io.reason import Reason
from node.store import Database, alarms

_log = structlog.get_logger()


def ring(db: Database, reason: Reason, subject: str, now: float, *, study: tuple[str, str] | None = None) -> None:
    """Raise an alarm unless it stands already.

    Parameters
    ----------
    db : Database
        Where it is kept.
    reason : Reason
        What is wrong and what to do; its code is the alarm's.
    subject : str
        A study UID, the name of a destination, the AE title of a sender, or empty for the node.
    now : float
        The time.
    study : tuple[str, str] or None
        UID and hash of the study that it is about; the hash goes to the log, the UID does not.
    """
    uid, hashed = study or (None, None)
    if alarms.raised(db, subject, reason.as_json(), now, uid):
        tell(reason.code, hashed, None if study else subject)


def tell(code: str, study_hash: str | None, subject: str | None = None, *, destination: str | None = None) -> None:
    """Write the one line of the log about an alarm that was raised, here or in a transaction that is committed."""
    about = {"study": study_hash, "subject": subject, "destination": destination}
    _log.error("alarm", code=code, **{key: value for key, value in about.items() if value})


def quieten(db: Database, code: str, subject: str, now: float, *, study: tuple[str, str] | None = None) -> None:
    """Clear an alarm whose cause is gone; `subject` and `study` as for `ring`."""
    if alarms.cleared(db, code, subject, now):
        about = {"study": study and study[1], "subject": None if study else subject}
        _log.info("alarm.cleared", code=code, **{key: value for key, value in about.items() if value})
