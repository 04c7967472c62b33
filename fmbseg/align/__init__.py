"""Stage 2: the alignment head that maps frozen encoder features into CLIP's text space."""
