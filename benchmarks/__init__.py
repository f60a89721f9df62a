"""What Backprop's promises about speed are measured with: `python -m benchmarks` from the repository's root."""
