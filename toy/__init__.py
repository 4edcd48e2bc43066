"""The small trained Wan: its world, its training, its evaluation."""
