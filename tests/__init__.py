"""Tests mirror the packages; see CONTRIBUTING.md for their tiers."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
