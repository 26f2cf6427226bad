"""The verifier as an HTTP service: solutions in, verdicts out as they finish.

`app.create_app` makes the application of a `GenPRM`, `server` runs it, `genprm_trl.client` talks to it. The package
needs the extra `serve`.
"""

from genprm_trl.service.app import create_app
from genprm_trl.service.limits import ServiceLimits

__all__ = ["ServiceLimits", "create_app"]
