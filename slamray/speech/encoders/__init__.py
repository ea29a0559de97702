"""Sound to units: a table of encoders, one file each, and k-means."""
