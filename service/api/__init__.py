"""The HTTP shell: routes parse, call one function and serialise."""
