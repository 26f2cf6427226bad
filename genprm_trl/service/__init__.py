"""The verifier as an HTTP service: solutions in, verdicts out as they finish.

`app.create_app` makes the application of a verifier, `server` runs it, `genprm_trl.client` talks to it. The package
needs the extra `serve`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genprm_trl._lazy import lazy_exports

if TYPE_CHECKING:
    from genprm_trl.service.app import create_app as create_app
    from genprm_trl.service.limits import ServiceLimits as ServiceLimits

__all__, __getattr__, __dir__ = lazy_exports(__name__, {".app": ["create_app"], ".limits": ["ServiceLimits"]})
