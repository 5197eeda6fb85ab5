"""What the PACS gets from a scanner that opens one association per image, and from late images.

    python -m benchmarks.arrivals [--slices 64] [--pace 1.5] [--quiet 60] [--late 2]

The sender declares nothing. All but the last slices come at the pace given, one association each; when the results are in
the PACS the late ones follow. Prints one line per published revision.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from pydicom import dcmread

import phantom
from node.rehearsal import Rehearsal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=64)
    parser.add_argument("--pace", type=float, default=1.5)
    parser.add_argument("--quiet", type=float, default=60.0)
    parser.add_argument("--late", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        phantom.write(phantom.build(11, slices=asked.slices, thickness_mm=5.0, matrix=128), work / "phantom")
        files = sorted((work / "phantom" / "dicom").glob("*.dcm"))
        with Rehearsal(work / "node", quiet_s=asked.quiet, whole=False) as both:
            both.archive(files)
            sources = {r.sop_instance_uid for r in both.pacs.received}
            study = both.pacs.received[0].study_instance_uid
            for path in files[: -asked.late]:
                begin = time.monotonic()
                both.push([path])
                time.sleep(max(0.0, asked.pace - (time.monotonic() - begin)))
            published = 0
            for revision in (1, 2):
                if revision == 2:
                    both.push(files[-asked.late :])
                both.wait(
                    lambda d: bool(d["idle"]) and d["studies"] == {"open": 0, "closed": 1}, "status", timeout_s=300
                )
                shown = both.ask("show", study)
                new = both.results(sources)[published:]
                published += len(new)
                reports = [dcmread(r.path) for r in new if r.sop_class_uid.endswith("88.34")]
                named = [str(p.ReferencedSOPInstanceUID) for r in reports for p in _predecessors(r)]
                print(
                    f"revision {shown['revision']}: {shown['instances']} images, {len(new)} objects published "
                    f"({', '.join(sorted(dcmread(r.path).Modality for r in new))}), predecessors named: {len(named)}"
                )
                assert shown["revision"] == revision
                assert len(new) == len({r.sop_instance_uid for r in new}) == 3
                assert len(reports) == 1
            sys.exit(0 if len(named) == 1 else 1)


def _predecessors(report):  # noqa: ANN001, ANN202 - a pydicom Dataset in, items out
    return [
        item
        for study in report.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]


if __name__ == "__main__":
    main()
