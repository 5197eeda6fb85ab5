"""The only SQL: tables, and one named function for every question and every change."""

from node.store.engine import Database, StoreError, open_database

__all__ = ["Database", "StoreError", "open_database"]
