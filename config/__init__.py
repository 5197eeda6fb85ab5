"""Strict loading of the TOML configuration into frozen settings."""

from config.load import ConfigError, load
from config.settings import Settings

__all__ = ["ConfigError", "Settings", "load"]
