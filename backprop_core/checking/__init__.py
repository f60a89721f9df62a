"""Checking a plugin before anybody depends on it: what is wrong with it, and how it is mended.

`child` loads the plugin in a process of its own, where it can do no harm; `parts` and `source` are what is looked at;
`asking` finds what a person means and runs the child.
"""
