"""Which stages a recipe comes to, and what is refused before any of them starts."""
