"""Pages in a browser: a page to draw, paint and type on, and a dashboard of all results."""
