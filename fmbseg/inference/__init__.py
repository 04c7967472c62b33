"""From an image to a label map: the segmenter, the protocols, the background rule."""
