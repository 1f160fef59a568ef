"""One module per command of `evalkit`: `add_arguments(parser)` and `main(args) -> exit code`."""
