"""Sound to units: HuBERT features and their k-means."""
