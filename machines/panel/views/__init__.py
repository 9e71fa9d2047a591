"""One function a URL: check the right, read the form, place the order, answer. A file a noun."""
