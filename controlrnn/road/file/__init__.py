"""The road file: schema, lines, reading with errors in words, and writing with comments."""
