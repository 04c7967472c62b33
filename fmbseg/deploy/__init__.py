"""A trained segmenter as files that run without this package: a graph, and a file of words."""
