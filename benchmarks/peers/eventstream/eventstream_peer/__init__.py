"""django-eventstream's part: a stream, and a process that sends through Redis."""
