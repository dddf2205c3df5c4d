"""The page for people, over the server's public API: its files in `static/`, and a server with it."""
