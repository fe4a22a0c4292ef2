"""The labelling web app: one process, server-rendered pages, one script of ours, no outside request."""
