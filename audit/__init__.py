"""Files of responses in, the same rows with a verdict each out; plans and statistics to come.

Rows are streamed: a file is never held whole, and a bad row costs itself alone.
"""
