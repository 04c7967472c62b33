"""Stage 1: pseudo labels from CLIP (what is in an image) and SAM (where it is)."""
