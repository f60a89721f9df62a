"""`python -m backprop_core` is `backprop`."""

from backprop_core.cli import main

main()
