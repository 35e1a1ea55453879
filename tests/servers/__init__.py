"""The servers that the tests run against: all of them real, all of them thrown away."""
