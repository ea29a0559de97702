"""The unit LM: made from a text LM (TWIST), its attention, its continuations."""
