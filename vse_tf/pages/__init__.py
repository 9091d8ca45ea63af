"""HTML pages and pictures for people: the error page, contact sheets, thumbnails."""
