"""Scores: ``update(outputs, batch)``, ``result()``, ``decode(outputs, batch)``."""
