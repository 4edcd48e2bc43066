"""The measure measured: clips, edits of them that have to be told apart, and the ten sanity tests."""
