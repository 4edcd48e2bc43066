"""What several test modules share; a test imports from here alone, never from a conftest or from another test."""
