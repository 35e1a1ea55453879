"""djangochannelsrestframework's part: a model observer, and a process that saves."""
