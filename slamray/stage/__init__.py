"""What a stage is, how stages are made, and what they ask of the machine. Knows no torch, no Ray, no recipe."""
