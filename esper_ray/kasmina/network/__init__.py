"""The growing network: slots, cells, growth as one transaction, how seeds attach and start."""
