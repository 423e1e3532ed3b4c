"""Folders of the studies."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "evidence"
RUNS, EVALUATIONS = BUILD / "runs", BUILD / "evaluations"
PUBLISHED = ROOT / "docs" / "results"
"""Tables and pictures that are kept with the documentation."""
SHOWN = ROOT / "docs" / "pages" / "images"
"""Copies that the site shows."""
ESPER = Path(sys.executable).parent / "esper"
