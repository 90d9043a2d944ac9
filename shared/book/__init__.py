"""The book: all notes, weeks, papers, capstones and scripts as one static site, see `build`."""
