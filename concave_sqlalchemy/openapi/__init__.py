"""OpenAPI 3.1: what can be asked of a resource (`operations`) → a document (`document`) → where an app shows it (`apps`)."""
