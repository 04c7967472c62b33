"""Studies: one change a variant, several seeds, in a workspace of their own."""
