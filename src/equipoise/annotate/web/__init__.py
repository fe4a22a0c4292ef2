"""The labelling web app: one process, server-rendered pages, htmx where it helps, no outside request."""
