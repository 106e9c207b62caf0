"""Names the message packages that can be built and the type hashes that they must have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

_DEFINITIONS = Path(__file__).resolve().parent / "definitions"

_GEOMETRY = ("builtin_interfaces", "std_msgs", "geometry_msgs")


@dataclass(frozen=True)
class MessagePackage:
    """A package of messages.

    type_hashes:  by name of the message, the hash (RIHS01, in hex) that the type has everywhere else
    dependencies: the message packages whose types the definitions use, directly or indirectly
    defined_in:   the folder of the definitions, where it is not called as the package
    source:       where a ROS distribution that lacks it gets it; "" for the distribution's own packages
    needed:       whether the node publishes or needs its messages, whatever sensor there is
    """

    name: str
    type_hashes: Mapping[str, str]
    dependencies: tuple[str, ...] = _GEOMETRY
    defined_in: str = ""
    source: str = ""
    needed: bool = True

    @property
    def folder(self) -> Path:
        """Folder of the definitions, which lie in its subfolder `msg`."""
        return _DEFINITIONS / (self.defined_in or self.name)

    @property
    def definitions(self) -> list[Path]:
        """The .msg files, sorted."""
        return sorted(self.folder.glob("msg/*.msg"))


VISION_MSGS = MessagePackage(
    "vision_msgs",
    MappingProxyType(
        {
            "BoundingBox3D": "bbb73a65c163d7f9bb29009c7bde9f7faa576bd2d23299c4511d19230dab4698",
            "Detection3D": "ddd703be132ab0b69d33121f1bb034132bfbb3b0ac5f9fb1516005ba1c8a265b",
            "Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
            "LabelInfo": "3d37df4015cdf660cc851c51897f2acd957e1ca6205ba0a99aebffb9406b0783",
            "ObjectHypothesis": "51da43cec11c01957a64d1e05a24acd18aae7745ec30b74348ad5f6d634f7f90",
            "ObjectHypothesisWithPose": "41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc",
            "VisionClass": "1e4a11f0fed50b5623cb8ff26ca0e37952a48a9c074d16f804b44e9164c2037a",
        }
    ),
)

TF2_MSGS = MessagePackage(
    "tf2_msgs",
    MappingProxyType({"TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"}),
)

POINT_CLOUD_INTERFACES = MessagePackage(
    "point_cloud_interfaces",
    MappingProxyType({"CompressedPointCloud2": "4b38df4932a156a54c53e80a7f34e54e2966b20e54a4d14ded34a165a389c0c1"}),
    (*_GEOMETRY, "sensor_msgs"),
    needed=False,
)

LIVOX_ROS_DRIVER2 = MessagePackage(
    "livox_ros_driver2",
    MappingProxyType(
        {
            "CustomMsg": "2eb17e5e35bf5a2d6cd079f3c57f33abf95e5bf7d71b42cddc05daace73d815a",
            "CustomPoint": "3289ac5e30c215e055e9b48fe0df5c2fb916abbb0c3a75315071bb7d735067f5",
        }
    ),
    ("builtin_interfaces", "std_msgs"),
    "livox",
    "source the workspace of Livox's driver, which has it",
    needed=False,
)

LIVOX_ROS_DRIVER = MessagePackage(
    "livox_ros_driver",
    MappingProxyType(
        {
            "CustomMsg": "94041b4794f52c1d81def2989107fc898a62dacb7a39d5dbe80d4b55e538bf6d",
            "CustomPoint": "0784ad37375a610ecb14ddfd6898d18c9522cbca5a1c9042c003586212825907",
        }
    ),
    ("builtin_interfaces", "std_msgs"),
    "livox",
    "source the workspace of Livox's driver, which has it",
    needed=False,
)
"""The same messages as the driver for ROS 1 calls them. Recordings that were converted keep the name."""

PACKAGES = MappingProxyType(
    {
        package.name: package
        for package in (VISION_MSGS, TF2_MSGS, POINT_CLOUD_INTERFACES, LIVOX_ROS_DRIVER2, LIVOX_ROS_DRIVER)
    }
)
