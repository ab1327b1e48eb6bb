"""Of the library's executor only its error is seen from outside."""
