"""Text to sound: a table of voices, one file each."""
