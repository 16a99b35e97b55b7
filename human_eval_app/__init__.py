"""Blind side-by-side comparison of images by people: schedule, store, REST API, Gradio page, export."""
