"""The three foundation models behind one loading road: CLIP, SAM, and the frozen encoder."""
