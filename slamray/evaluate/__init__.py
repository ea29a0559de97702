"""Metrics, one file per family: arrays and dicts in, rows and summaries out."""
