"""slamray: train speech language models, the Slam recipe on Ray."""

__version__ = "0.1.0"
