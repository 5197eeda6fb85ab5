"""Whether a mask of the lungs lies on the lungs: a witness that knows nothing but the raw source pixels.

Lungs are the air inside the chest. A mask that lies right gains wall and loses lung wherever it is moved; so what it would
gain must not be airier than what it would lose, for one pixel in each direction, one slice up and down, mirrored, and with
the slices in reverse order. Both are means over the pixels that change, so the size of the lungs does not matter.

What it cannot see: anything but CT, masks of other things than lungs, and less than half a pixel or slice. See decision 36
for what it measured on phantoms and patients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from dicom_io.errors import DicomIOError
from sr_writer.gate_frames import Runs
from sr_writer.gate_sources import Slice

AIR_HU, WALL_HU = -950.0, -250.0
"""Beyond these nothing is more air, or more wall: bones and bronchi would outweigh the border."""
AIRIER_HU = 100.0
"""A place is better only if what the mask would gain there is airier than what it would lose by more than this."""
LEAST = 200
"""Pixels that must change before anything is said."""
SAMPLED = 24
"""Slices that are looked at, spread evenly."""

_MOVES: Mapping[str, Callable[[Runs], Runs]] = {
    "one pixel to the left": lambda r: r.moved(0, -1),
    "one pixel to the right": lambda r: r.moved(0, 1),
    "one pixel up": lambda r: r.moved(-1, 0),
    "one pixel down": lambda r: r.moved(1, 0),
    "left and right exchanged": lambda r: r.mirrored(rows=False),
    "upside down": lambda r: r.mirrored(rows=True),
}


def better_places(lungs: Sequence[Runs | None], slices: Sequence[Slice]) -> Iterator[str]:
    """Yield where the lungs would lie better than where they are said to lie.

    Parameters
    ----------
    lungs : Sequence[Runs or None]
        Both lungs together on every slice, in order along the normal; None where there is no frame.
    slices : Sequence[Slice]
        The slices.
    """
    yield from (place for place, hu in gains(lungs, slices).items() if hu < -AIRIER_HU)


def gains(lungs: Sequence[Runs | None], slices: Sequence[Slice]) -> dict[str, float]:
    """Return for every other place what the lungs would gain there minus what they would lose, in HU; negative is airier."""
    filled = [z for z, runs in enumerate(lungs) if runs is not None and runs.starts.size]
    if len(filled) < 1 or any(s.modality != "CT" for s in slices):
        return {}
    moves: dict[str, Callable[[int], Runs | None]] = {
        name: (lambda z, move=move: None if lungs[z] is None else move(lungs[z]))  # type: ignore[misc]
        for name, move in _MOVES.items()
    }
    if len(filled) > 2:
        moves |= {
            "one slice lower": lambda z: lungs[z + 1] if z + 1 < len(lungs) else None,
            "one slice higher": lambda z: lungs[z - 1] if z > 0 else None,
            "slices in reverse order": lambda z: (
                lungs[filled[0] + filled[-1] - z] if 0 <= filled[0] + filled[-1] - z < len(lungs) else None
            ),
        }
    # the ends too: a mask that is moved by a slice leaves the lungs there
    looked = range(max(filled[0] - 1, 0), min(filled[-1] + 2, len(lungs)))
    picked = np.unique(np.linspace(0, len(looked) - 1, min(SAMPLED, len(looked))).round().astype(int))
    totals = {name: np.zeros(4) for name in moves}
    for z in (looked[int(k)] for k in picked):
        try:
            values = slices[z].values()
        except (DicomIOError, OSError, ValueError):
            return {}
        _add(totals, moves, z, lungs[z], values)
    out = {}
    for name, (gained, lost, n_gained, n_lost) in totals.items():
        if min(n_gained, n_lost) >= LEAST:
            out[name] = float(gained / n_gained - lost / n_lost)
    return out


def _add(
    totals: Mapping[str, npt.NDArray[np.float64]], moves: Mapping[str, Callable[[int], Runs | None]], z: int,
    here: Runs | None, values: npt.NDArray[np.float32],
) -> None:  # fmt: skip
    """Add what one slice says: sums and counts of what every other place would gain and lose."""
    airy = np.clip(values, AIR_HU, WALL_HU)
    nothing = Runs(np.zeros(0, np.int64), np.zeros(0, np.int64), airy.shape)
    true = nothing if here is None else here
    plane = true.plane()
    both = airy * plane
    own, count = float(both.sum(dtype=np.float64)), true.voxels
    for name, move in moves.items():
        other = move(z) or nothing
        shared, shared_hu = float(other.shared(true).sum()), float(other.sums(both).sum())
        totals[name] += (
            float(other.sums(airy).sum()) - shared_hu,
            own - shared_hu,
            other.voxels - shared,
            count - shared,
        )
