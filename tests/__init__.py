"""Tests of the zoo. ``tests/conformance`` compares it with numbers recorded from the 2019 system."""
