"""What goes wrong with a database, whichever it is."""


class StoreError(Exception):
    """The database cannot be used; the text says why and what to do."""
