"""Settings: every field with its default, meaning and source. Groups lie in one file each; load.py reads words."""
