"""From files to documents, and from documents to chunks that know where they stand."""
