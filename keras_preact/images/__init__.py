"""Images between a file and a net: values, decoding, resizing."""
