"""Other libraries' convolutions and pooling on fastconv: one file a host, in the host's own habits.

Importing this package, or fastconv, imports no host; each module here imports the host it is named after.
Modules that patch a host have ``install()``, ``uninstall()`` and ``with installed():``
(`fastconv.adapters.installation`). A host that is missing raises ``ImportError``, and one whose insides are
not those this was written for raises `HostError`, each in one line.
"""

from fastconv.adapters.installation import HostError

__all__ = ["HostError"]
