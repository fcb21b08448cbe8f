"""The report of a search as one HTML file that needs no network."""

from search.page.html import write_page

__all__ = ["write_page"]
