"""Grading a series of chest CT."""
