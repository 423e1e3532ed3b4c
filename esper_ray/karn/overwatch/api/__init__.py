"""The interface of JSON and the stream of events."""
