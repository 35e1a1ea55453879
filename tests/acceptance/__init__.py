"""The whole journey, seen from a real browser."""
