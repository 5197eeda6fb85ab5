"""A dark canvas with text in several scripts, boxes and chips: the common look of every picture."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from sr_writer import fonts

Colour = tuple[int, int, int]

SIZE = (1400, 1000)
BACKGROUND: Colour = (16, 20, 27)
PANEL: Colour = (25, 31, 41)
LINE: Colour = (52, 62, 78)
BRIGHT: Colour = (238, 242, 248)
SOFT: Colour = (164, 175, 191)
FAINT: Colour = (112, 124, 142)
AMBER: Colour = (255, 193, 7)
DARK: Colour = (24, 20, 4)
GRADE_CHIP = (928, 144, 92)
"""Left, top and side of the box behind the letter of a grade on the card of a grade."""
GRADES: dict[str, Colour] = {"A": (76, 175, 80), "B": (38, 166, 154), "C": (255, 160, 0), "D": (229, 57, 53)}


class Canvas:
    """Draws onto one RGB picture; positions are pixels from the top left."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", SIZE, BACKGROUND)
        self._draw = ImageDraw.Draw(self.image)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Return the picture, shape (rows, columns, 3)."""
        return np.asarray(self.image, np.uint8)

    def box(self, x: int, y: int, width: int, height: int, fill: Colour, radius: int = 8) -> None:
        """Draw a filled box with round corners."""
        self._draw.rounded_rectangle((x, y, x + width - 1, y + height - 1), radius, fill)

    def rule(self, x: int, y: int, width: int) -> None:
        """Draw a thin horizontal line."""
        self._draw.line((x, y, x + width, y), LINE, 1)

    def text(self, x: float, y: int, text: str, size: int, colour: Colour = BRIGHT, *, align: str = "left") -> float:
        """Draw one line whose ascenders start at `y`; return its width.

        Parameters
        ----------
        x, y : float, int
            Left, middle or right end of the line as `align` says, and its baseline minus the font size.
        """
        total = width_of(text, size)
        at = x - {"left": 0.0, "middle": total / 2, "right": total}[align]
        for part, font in fonts.runs(text, size):
            self._draw.text((at, y + size), part, colour, font=font, anchor="ls")
            at += font.getlength(part)
        return total

    def paragraph(self, x: int, y: int, width: int, text: str, size: int, colour: Colour, *, lines: int = 99) -> int:
        """Draw text wrapped to `width` in at most `lines` lines; return the y below it."""
        for line in wrap(text, size, width, lines):
            self.text(x, y, line, size, colour)
            y += round(size * 1.45)
        return y

    def paste(self, picture: Image.Image, x: int, y: int) -> None:
        """Put another picture on this one."""
        self.image.paste(picture, (x, y))


def width_of(text: str, size: int) -> float:
    """Return the width of a line in pixels."""
    return sum(font.getlength(part) for part, font in fonts.runs(text, size))


def wrap(text: str, size: int, width: int, lines: int) -> Sequence[str]:
    """Break text at spaces, Chinese anywhere; what does not fit into `lines` ends in an ellipsis."""
    words: list[str] = []
    for character in text:
        if (words and not words[-1].endswith(" ") and ord(character) < 0x2E80 and not _wide(words[-1])) or (
            words and character in "，。；：、）！"
        ):
            words[-1] += character
        else:
            words.append(character)
    out = [""]
    # a word too long for any line is broken anywhere
    for word in (part for whole in words for part in ([whole] if width_of(whole, size) <= width else whole)):
        if out[-1] and width_of((out[-1] + word).rstrip(), size) > width:
            out.append("")
        out[-1] += word
    out = [line.rstrip() for line in out]
    if len(out) > lines:
        last = out[lines - 1]
        while last and width_of(last + "…", size) > width:
            last = last[:-1]
        out = [*out[: lines - 1], last + "…"]
    return out


def _wide(word: str) -> bool:
    return ord(word[-1]) >= 0x2E80
