"""Calls of every public function with malformed arguments, and the judge of what comes of them."""
