"""The app whose tables are written: the same columns, published in different ways."""
