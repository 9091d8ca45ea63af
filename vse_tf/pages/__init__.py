"""HTML pages and pictures for people to look at: error page, contact sheet, thumbnails, TensorBoard's pictures."""
