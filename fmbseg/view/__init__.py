"""Pictures for people: label overlays with a legend, and sheets of label maps."""

from __future__ import annotations
