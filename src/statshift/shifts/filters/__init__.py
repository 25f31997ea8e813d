"""Photo filters on batched tensors: those of CSSgram and instagram.css, and five of ImageMagick's commands."""
