"""Where the data of the built-in tasks comes from: one module a source, each with its loader."""
