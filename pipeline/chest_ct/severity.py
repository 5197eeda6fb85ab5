"""CT severity scores: defined by lobe, so that without lobes only their range is known.

A score adds a step for each of the five lobes, three on the right and two on the left. What is measured here is the share of
opacity in each lung. Any division of a lung into its lobes, of any sizes, and any spread of the opacities over them that
gives that share is possible; `Scale.bounds` are the least and the most that they allow, each exactly.

References
----------
CT severity score, 25 points: Chang 2005, Pan 2020, Li K. (Eur Radiol) 2020. Total severity score, 20 points: Li K. (Invest Radiol) 2020.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from pipeline.chest_ct.measure import SIDE_NAMES
from pipeline.chest_ct.parameters import parameters
from pipeline.reasons import REASONS
from pipeline.result import Measurement

LOBES: Mapping[str, int] = {"right_lung": 3, "left_lung": 2}
UNIT = "{score}"


@dataclass(frozen=True, slots=True)
class Scale:
    """How a share becomes points.

    Parameters
    ----------
    name : str
        Of the score, as a measurement is called.
    steps : tuple[tuple[float, bool], ...]
        Where each further point begins, in percent, rising; whether the limit itself has it.
    """

    name: str
    steps: tuple[tuple[float, bool], ...]

    def points(self, percent: float) -> int:
        """Return the points of one lobe of which `percent` is opacity."""
        return sum(percent >= limit if included else percent > limit for limit, included in self.steps)

    def total(self, lobes: Sequence[float]) -> int:
        """Return the score of the lobes of a patient, each by its percent."""
        return sum(self.points(percent) for percent in lobes)

    def bounds(self, percent: float, lobes: int) -> tuple[int, int]:
        """Return the least and the most points of `lobes` lobes of any sizes that together are `percent` opacity.

        Least: all in one lobe that is almost the whole lung, the others being free of it and small; as they are
        something, that lobe holds a trace more than `percent`. Less is not possible, because some lobe has at least the
        share of the whole. Most: all others are full and small; as they are something, the large one holds a trace less
        than `percent`. More is not possible, because some lobe has at most the share of the whole; only if all have just
        that share, none has less.
        """
        if percent <= 0 or percent >= 100:
            return lobes * self.points(percent), lobes * self.points(percent)
        more = sum(percent >= limit for limit, _ in self.steps)
        less = sum(percent > limit for limit, _ in self.steps)
        even = lobes * self.points(percent)
        return min(more, even), max((lobes - 1) * len(self.steps) + less, even)


@cache
def scales() -> tuple[Scale, ...]:
    """Return the scores of table ``severity`` of ``parameters.toml``."""
    rows = parameters()["severity"]
    return tuple(Scale(name, tuple((float(a), word == "from") for word, a in steps)) for name, steps in rows.items())


def measurements(shares: Mapping[str, Measurement]) -> tuple[Measurement, ...]:
    """Return, for every score, that it cannot be given, and the range in which it lies.

    Parameters
    ----------
    shares : mapping
        ``left_lung`` and ``right_lung`` to how much of it is opacity, in percent. Of a share that is a lower bound the
        least of the score is one, too, and the most is not known; one that is missing leaves nothing to say.
    """
    out = []
    given = [shares[side] for side in SIDE_NAMES.values()]
    lacking = next((m.reason for m in given if m.value is None), None)
    bound = next((m.reason for m in given if m.status == "lower_bound"), None)
    for scale in scales():
        names = [f"{scale.name}_{end}" for end in ("least", "most")]
        if lacking is not None:
            why = lacking
            ends = [Measurement(name, "lungs", None, UNIT, "not_computable", lacking) for name in names]
        else:
            each = [scale.bounds(m.value or 0.0, LOBES[m.site]) for m in given]
            least, most = (float(sum(b[k] for b in each)) for k in (0, 1))
            if bound is None:
                why = REASONS("score-needs-lobes", least=f"{least:.0f}", most=f"{most:.0f}")
                ends = [Measurement(name, "lungs", v, UNIT) for name, v in zip(names, (least, most), strict=True)]
            else:
                why = REASONS("score-needs-lobes-least", least=f"{least:.0f}")
                ends = [
                    Measurement(names[0], "lungs", least, UNIT, "lower_bound", bound),
                    Measurement(names[1], "lungs", None, UNIT, "not_computable", bound),
                ]
        out += [Measurement(scale.name, "lungs", None, UNIT, "not_computable", why), *ends]
    return tuple(out)
