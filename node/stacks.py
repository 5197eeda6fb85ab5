"""Whether series are stacks without gaps; remembered for as long as they do not grow, because every header is read for it."""

from collections.abc import Sequence
from pathlib import Path

from dicom_io.errors import DicomIOError
from dicom_io.frames import images_of
from dicom_io.read import read_instance
from dicom_io.stack import build_stack, continuous
from node.store.rows import StoredInstance


class Stacks:
    """Looks at series once.

    Parameters
    ----------
    spool : Path
        Where the files stand.
    least : int
        What has fewer slices is not a stack that could be judged.
    """

    def __init__(self, spool: Path, least: int) -> None:
        self._spool, self._least = spool, least
        self._known: dict[str, dict[str, tuple[tuple[int, int], bool | None]]] = {}

    def continuous(self, rows: Sequence[StoredInstance]) -> bool | None:
        """Say whether a series is a stack without gaps; None: it has too few slices for one.

        Parameters
        ----------
        rows : Sequence[StoredInstance]
            All images of the series, oldest first.
        """
        series, mark = self._known.setdefault(rows[0].study_uid, {}), (len(rows), rows[-1].id)
        known = series.get(rows[0].series_uid)
        if known is None or known[0] != mark:
            known = series[rows[0].series_uid] = (mark, self._measured(rows))
        return known[1]

    def forget(self, study_uid: str) -> None:
        """Let go of what is remembered of a study."""
        self._known.pop(study_uid, None)

    def _measured(self, rows: Sequence[StoredInstance]) -> bool | None:
        try:
            instances = [read_instance(self._spool / row.entry) for row in rows]
            slices = sum(len(images_of(i)) for i in instances)
            return continuous(build_stack(instances)) if slices >= self._least else None
        except DicomIOError:
            return False
