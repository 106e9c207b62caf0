from glob import glob

from setuptools import find_packages, setup

package_name = "spvnas_ros"

setup(
    name=package_name,
    version="0.1.0",
    description="Sparse point-voxel networks (SPVCNN, MinkUNet, SPVNAS) that label LiDAR clouds, as a ROS 2 node",
    author="spvnas_ros developers",
    maintainer="spvnas_ros developers",
    maintainer_email="maintainers@spvnas-ros.example",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["spvnas_ros", "spvnas_ros.*"]),
    package_data={
        "spvnas_ros": ["py.typed"],
        "spvnas_ros.zoo": ["*.safetensors"],
        "spvnas_ros.ros.build_messages": ["definitions/*/msg/*.msg"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
        (f"share/{package_name}/launch", glob("launch/*.launch.py")),
        (f"share/{package_name}/config", glob("config/*.*")),
        (f"share/{package_name}/config/train", glob("config/train/*.yaml")),
        (f"share/{package_name}/config/search", glob("config/search/*.yaml")),
        (f"share/{package_name}/rviz", glob("rviz/*.rviz")),
        # ros2 run and launch_ros look for executables here; pip puts console scripts in bin only.
        (f"lib/{package_name}", glob("scripts/*")),
    ],
    zip_safe=False,
    # Ranges, not pins: a machine with a GPU keeps the torch build it has. The Makefile pins what the tests run on.
    install_requires=[
        "numpy>=1.26",
        "torch>=2.4",
        "numba>=0.60",
        "safetensors>=0.4",
        "rosbags>=0.11",
        "mcap>=1.2",
        "typer>=0.12",
        "rich>=13",
        "pillow>=10.1",
    ],
    extras_require={
        # Real ROS 2 (Kilted) from PyPI, for machines without a ROS installation. Where ROS is installed, its own
        # packages serve and this extra must not be asked for.
        "ros": [
            "ros-kilted-rclpy[fastrtps]",
            "ros-sensor-msgs",
            "ros-std-msgs",
            "ros-geometry-msgs",
            "ros-diagnostic-msgs",
            "ros-visualization-msgs",
            "ros-lifecycle-msgs",
            "ros-std-srvs",
            "ros-rosgraph-msgs",
        ],
        # foxglove.PointCloud in MCAP files
        "foxglove": ["protobuf>=4.25", "flatbuffers>=23.5"],
        # clouds compressed by Draco
        "draco": ["DracoPy>=2.0"],
        # VelodyneScan messages, and captures of the network
        "velodyne": ["velodyne-decoder>=3.0", "dpkt>=1.9"],
        # What ouster-sdk 1.0 needs; itself it asks for an older rosbags, which only its own reader of bags uses, so it
        # is installed beside: pip install --no-deps ouster-sdk
        "ouster": [
            "more-itertools>=8.6",
            "laspy>=2.5",
            "threadpoolctl>=3.5",
            "psutil>=5.9",
            "prettytable>=2.1",
            "requests>=2",
            "packaging",
        ],
        # `spvnas simulate`: ray casting.
        "simulate": ["embreex>=2.17.7"],
        # `spvnas view`; the browser's page is inside the package, nothing is fetched when it is used.
        "view": ["viser>=1.1"],
        # `spvnas evaluate --track`: pairs of objects and tracks
        "tracks": ["scipy>=1.11"],
        # `spvnas train`, `spvnas search`
        "train": ["lightning>=2.4", "tensorboard>=2.14", "pydantic>=2.7", "pyyaml>=6", "scipy>=1.11"],
        # `spvnas search --ray`, `spvnas segment --ray`: many machines
        "ray": ["ray>=2.10"],
        # Formats of scans; docs/formats.md has which
        "las": ["laspy[lazrs]>=2.5"],
        "e57": ["pye57>=0.4.10"],
        "tables": ["pyarrow>=15"],
        "formats": ["laspy[lazrs]>=2.5", "pye57>=0.4.10", "pyarrow>=15"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "jsonschema>=4.18",
            "embreex>=2.17.7",
            "viser>=1.1",
            "shapely>=2",  # the areas that ours are compared with
            "scipy>=1.11",
            "motmetrics>=1.4",  # counts of tracks that ours are compared with
            "laspy[lazrs]>=2.5",
            "pye57>=0.4.10",
            "pyarrow>=15",
            "copclib>=2.6",  # writes COPC
            "pandas>=2",  # writes tables
            "plyfile>=1",
            "coloraide>=4",  # how far colours are apart, and how people with deuteranopia see them
            "playwright>=1.40",  # drives a Chromium that is installed already
            "pyyaml>=6",
            "protobuf>=4.25",
            "flatbuffers>=23.5",
            "DracoPy>=2.0",
            "velodyne-decoder>=3.0",
            "dpkt>=1.9",
            "foxglove-sdk>=0.30",  # writes recordings as Foxglove does
            "foxglove-schemas-flatbuffer>=0.3",
            "mcap-ros2-support>=0.5",  # decodes by the definitions in the file, as Foxglove does
            "lightning>=2.4",
            "tensorboard>=2.14",
            "pydantic>=2.7",
            "ray>=2.10",
            "scipy>=1.10",
            # Comes with torch's CUDA build; the kernels are tested without, where PyPI has wheels.
            "triton>=3.3; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "ruff>=0.6",
            "mypy>=1.11",
            "import-linter>=2.0",
            "colcon-common-extensions",
            "setuptools>=70.1",  # builds wheels by itself
        ],
    },
    entry_points={
        "console_scripts": [
            "spvnas = spvnas_ros.cli:main",
            "segmenter_node = spvnas_ros.ros.node.__main__:main",
        ],
    },
)
