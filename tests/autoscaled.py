"""The nodes that Ray's autoscaler starts in tests, each with a folder of its own, as on a machine of its own.

Ray's provider for tests puts them into the head's folder, where each of them removes what a job has brought along when
its last worker has ended, also from under the others.
"""

import tempfile
from functools import partial
from typing import Any
from unittest import mock

from ray._private.parameter import RayParams
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class Provider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Args: provider_config: as Ray's own takes it, and `folder`, in which the nodes have theirs."""

    def _create_node_with_resources_and_labels(self, *what: Any) -> None:
        own = tempfile.mkdtemp(dir=self.provider_config["folder"])
        with mock.patch("ray._private.parameter.RayParams", partial(RayParams, temp_dir=own)):
            super()._create_node_with_resources_and_labels(*what)
