"""From any source of media to upright frames with true times, and 16 kHz sound."""
