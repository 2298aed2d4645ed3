"""Parts that two or more readers share."""
