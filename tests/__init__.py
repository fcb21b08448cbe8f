"""Tests mirror the packages; see CONTRIBUTING.md for their tiers."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Seconds that a test waits for what must come: many, as a machine may be slow or busy, and nothing may depend on it.
DEADLINE_S = 1800.0
