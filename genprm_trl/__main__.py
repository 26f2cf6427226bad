"""`python -m genprm_trl` is the `genprm` command, for launchers that want a module (`accelerate launch -m`)."""

from genprm_trl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
