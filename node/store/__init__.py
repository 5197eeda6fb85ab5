"""The only SQL: tables, and one named function for every question and every change."""

from node.store.engine import Database, DatabaseFault, Place, examine, exists, obstacle, open_database, place_of, shown
from node.store.errors import StoreError

__all__ = [
    "Database", "DatabaseFault", "Place", "StoreError", "examine", "exists", "obstacle", "open_database", "place_of", "shown",
]  # fmt: skip
