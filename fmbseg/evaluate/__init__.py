"""Scoring: dataset confusion matrices, baselines and the benchmark protocol."""

from __future__ import annotations
