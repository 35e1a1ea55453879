"""django-pgpubsub's part: the same columns, published by its two kinds of triggers."""
