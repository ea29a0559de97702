"""Units to sound: a table of decoders, one file each."""
