"""Where to look first: masks and pictures of a labelled set, the most doubtful first."""
