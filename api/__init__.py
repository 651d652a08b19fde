"""The faces of evenhand: REST service, command line and client. Async code lives here alone."""
