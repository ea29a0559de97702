"""What the scripts in jobs/ call."""
