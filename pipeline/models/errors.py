"""What can be wrong with a model that is brought."""

from pipeline.errors import PipelineFailed
from pipeline.reasons import REASONS


class ModelRefused(PipelineFailed):
    """A model, or something in it, is not taken; the reason says what and why."""


def refused(where: str, why: str) -> ModelRefused:
    """Return the refusal of `where`, a file or a key, because of `why`."""
    return ModelRefused(REASONS("model-refused", where=where, why=why))


def wrong(key: str, why: str) -> ModelRefused:
    """Return the refusal of a description whose `key` says what cannot be."""
    return ModelRefused(REASONS("model-description-wrong", key=key or "model.toml", why=why))
