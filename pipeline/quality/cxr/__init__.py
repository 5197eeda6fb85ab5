"""Grading one chest radiograph."""
