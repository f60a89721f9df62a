"""One line for scripts that train with Hugging Face's Trainer, Lightning or Keras.

`huggingface`, `lightning` and `keras` each bring a callback that reports steps and metrics, saves when Backprop
asks for it, ends the training shortly before its time box does, and goes on from where it was. Outside a run
they do nothing. Importing this package imports none of the three.
"""
