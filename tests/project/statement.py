"""The conformance statement, read: its sections and the tables in them."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATEMENT = (ROOT / "dicom_io" / "CONFORMANCE.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """Return what stands below a heading, up to the next one of any level."""
    lines = STATEMENT.splitlines()
    found = [n for n, line in enumerate(lines) if line.startswith("#") and line.lstrip("#").strip() == title]
    assert len(found) == 1, f"{len(found)} headings {title!r}"
    begin = found[0] + 1
    end = next((n for n, line in enumerate(lines[begin:], begin) if line.startswith("#")), len(lines))
    return "\n".join(lines[begin:end])


def table(title: str, number: int = 0) -> list[tuple[str, ...]]:
    """Return the rows of a section's table, without its head; marks of code are taken off."""
    tables: list[list[tuple[str, ...]]] = []
    inside = False
    for line in section(title).splitlines():
        if line.startswith("|"):
            if not inside:
                tables.append([])
            cells = line.strip().strip("|").split("|")
            tables[-1].append(tuple(cell.strip().replace("`", "") for cell in cells))
        inside = line.startswith("|")
    return tables[number][2:]
