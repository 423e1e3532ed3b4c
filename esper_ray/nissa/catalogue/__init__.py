"""What telemetry consists of, declared once: kinds of events, and what follows from them."""
