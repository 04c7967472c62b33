"""Images, annotations, vocabularies and synthetic scenes."""
