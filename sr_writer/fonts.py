"""Fonts for pictures: what the machine has, and what to do when it has none for Chinese."""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

CJK_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/wqy-microhei/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
)
"""Where distributions put fonts with Chinese (Debian: fonts-wqy-microhei or fonts-noto-cjk); the first that is there."""

LATIN_FONTS = (
    "/usr/share/fonts/truetype/noto/NotoSans-Regular.ttf",
    "/usr/share/fonts/truetype/liberation/LiberationSans-Regular.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
)

_PLAIN = str.maketrans({"–": "-", "—": "-", "·": "|", "≥": ">", "³": "3", "²": "2", "±": "~", "’": "'", "…": "..."})
_FIRST_CJK = 0x2E80


@cache
def cjk_path() -> str | None:
    """Return a font file with Chinese glyphs, or None."""
    return next((p for p in CJK_FONTS if Path(p).is_file()), None)


@cache
def latin_path() -> str | None:
    """Return a font file with Latin glyphs and signs; one with Chinese has them too."""
    return next((p for p in LATIN_FONTS if Path(p).is_file()), None) or cjk_path()


@cache
def _font(path: str | None, size: int) -> Font:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


def has_chinese() -> bool:
    """Say whether Chinese can be drawn."""
    return cjk_path() is not None


def drawable(languages: Sequence[str]) -> list[str]:
    """Return the languages that can be drawn; English stands in where there is no Chinese font."""
    return [tag for tag in languages if tag == "en" or has_chinese()] or ["en"]


def runs(text: str, size: int) -> Iterator[tuple[str, Font]]:
    """Split text into pieces with the font that has their glyphs; what no font here has is left out or spelt plainly."""
    for part, chinese in scripts(text):
        if chinese and has_chinese():
            yield part, _font(cjk_path(), size)
        elif not chinese:
            yield part if latin_path() else spelt(part), _font(latin_path(), size)


def scripts(text: str) -> Iterator[tuple[str, bool]]:
    """Split text into pieces that take one font each, and say whether that is the Chinese one."""
    for chinese, part in groupby(text, lambda character: ord(character) >= _FIRST_CJK):
        yield "".join(part), chinese


def spelt(text: str) -> str:
    """Return text without signs that plain fonts lack."""
    return text.translate(_PLAIN)
