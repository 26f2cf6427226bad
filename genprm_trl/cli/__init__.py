"""The `genprm` command: `main` finds and runs a subcommand, every other module that it names is one."""
