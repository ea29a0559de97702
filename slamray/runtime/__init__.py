"""The only package that imports Ray: connect, stream shards, train. It does not know what a HuBERT is."""
