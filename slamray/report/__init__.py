"""The page of a run, pictures of studies and sweeps, comparison with the paper."""
