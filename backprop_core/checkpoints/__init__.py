"""Checkpoints: found on disk, judged, remembered, and chosen to go on from."""
