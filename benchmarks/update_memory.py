"""Prints the bytes that an update of 20 million parameters needs beyond their state and gradients."""

from __future__ import annotations

from peak_memory import extra_here
from speed_update import LARGE, ours

if __name__ == "__main__":
    # It has compiled and taken some steps.
    print(extra_here(ours(LARGE)))
