"""The built-in plugins; they import only what a third party may."""
