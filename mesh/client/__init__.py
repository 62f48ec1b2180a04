"""The client library: drives one generation along a route."""
