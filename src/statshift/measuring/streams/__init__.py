"""Streams: in which order the images of a measurement come, batch after batch, and where a protocol begins anew."""
