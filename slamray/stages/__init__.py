"""One file per stage: which inputs, which kernel or loop, which facts for the manifest."""
