"""Text, recordings, preference pairs and test items, read as they are published."""
