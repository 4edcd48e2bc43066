"""A video whose rows are divided among ranks: who needs which frames, their transfers, the attention."""
