"""The only SQL: tables, and one named function for every question and every change."""

from node.store.engine import Database, DatabaseFault, StoreError, obstacle, open_database

__all__ = ["Database", "DatabaseFault", "StoreError", "obstacle", "open_database"]
