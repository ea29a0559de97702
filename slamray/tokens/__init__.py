"""Units to documents, documents to packed rows, rows to steps."""
