"""STOW-RS in: what comes by HTTP is taken as what comes by C-STORE is."""

from importlib.util import find_spec

from config.settings import Settings


def missing(settings: Settings) -> str:
    """Say what of the extra `web` this configuration needs and is not installed; empty if nothing."""
    sends = any(place.kind in ("stow", "webhook") for place in settings.destination)
    wanted: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
        ("[web] port", settings.web.port is not None, ("starlette", "uvicorn")),
        ('kind = "stow" or "webhook"', sends, ("httpcore2",)),
    )
    for what, needed, names in wanted:
        if not needed:
            continue
        absent = [name for name in names if find_spec(name) is None]
        if absent:
            return f"{what} needs {' and '.join(absent)}: pip install 'pacs-ai-node[web]'"
    return ""
