# spvnas_ros on the official ROS image. It has not been built by the project's tests, which have no Docker.
#
#   docker build -t spvnas_ros .
#   docker run --rm --network host --ipc host -v "$PWD:/data:ro" spvnas_ros \
#       points:=/velodyne_points weights:=/data/net.safetensors
#
# With an NVIDIA GPU add `--gpus all`. The host's network and IPC let the node meet the host's other ROS nodes, through
# shared memory.
ARG ROS_DISTRO=kilted
FROM ros:${ROS_DISTRO}-ros-base

RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

# What the distribution lacks or has too old, in an environment that sees the distribution's own Python packages. First,
# because it is the largest and changes least.
RUN python3 -m venv --system-site-packages /opt/python \
    && /opt/python/bin/pip install --no-cache-dir "torch>=2.4" "numba>=0.60" "safetensors>=0.4" "rosbags>=0.11" \
        "mcap>=1.2"

WORKDIR /workspace
COPY package.xml src/spvnas_ros/package.xml
RUN apt-get update \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths src --ignore-src --default-yes --dependency-types exec \
        --skip-keys python3-rosbags-pip \
    && rm -rf /var/lib/apt/lists/*

COPY . src/spvnas_ros
RUN . "/opt/ros/$ROS_DISTRO/setup.sh" && colcon build --packages-select spvnas_ros

# The node's command takes the first python3 on the PATH, the launch system its own.
ENV PATH=/opt/python/bin:$PATH
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/bash", "-c", ". install/setup.bash && exec ros2 launch spvnas_ros segment.launch.py \"$@\"", "segment"]
