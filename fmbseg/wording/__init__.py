"""Names examined before they are asked: what is one to CLIP, never found, or suggested."""
