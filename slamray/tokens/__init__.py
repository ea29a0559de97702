"""Units to documents, documents to packed rows, rows to steps; how much a sequence repeats itself."""
