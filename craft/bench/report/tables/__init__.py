"""Tables, each in Markdown, LaTeX and CSV."""
