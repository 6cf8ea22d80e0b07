"""What a detector is expected to count, as pure functions of composition, structure, axis and dose."""
