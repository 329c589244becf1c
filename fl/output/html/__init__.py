"""One HTML file that holds a whole run or comparison: figures, tables and options, without a single link to outside."""
