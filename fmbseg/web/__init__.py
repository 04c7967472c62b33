"""A page in the browser: a picture and names in, the label map out; for this machine alone."""
