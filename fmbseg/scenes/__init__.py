"""Synthetic scenes: glyphs on textures with exact ground truth, in the benchmarks' own layouts."""
