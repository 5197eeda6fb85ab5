"""Anthropomorphic chest CT with analytic truth, written as DICOM, for the demo, tests and benchmarks.

The chest is a set of implicit functions of patient position, so that every plane, thickness and spacing shows the
same patient. Truth is that geometry unblurred; the images add a point spread, a slice profile and noise.
"""

from phantom.build import Breakage, Parameters, Phantom, build
from phantom.dicom import datasets, write
from phantom.enhanced import enhanced, write_enhanced
from phantom.placed import Placed

__all__ = ["Breakage", "Parameters", "Phantom", "Placed", "build", "datasets", "enhanced", "write", "write_enhanced"]
