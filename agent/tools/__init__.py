"""Commands for the user's machine; a job never imports them."""
