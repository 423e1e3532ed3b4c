"""Jobs on a Ray cluster: what is packaged, and the client that submits and follows them."""
