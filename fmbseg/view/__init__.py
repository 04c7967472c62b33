"""Pictures for people: label overlays with a legend and sheets of a whole pipeline run."""

from __future__ import annotations
