"""Data sets: files of one format in, dicts of named numpy fields out."""
