"""OpenAPI 3.1: what can be asked of a resource (`operations`, with their `parameters` and `schemas`) → a document (`document`) → where an app shows it (`apps`)."""
