"""Tests mirror the packages."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIERS = ("unit", "integration", "faults", "cluster")
