"""Tests of the example project: the demo as a newcomer starts it."""
