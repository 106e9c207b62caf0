#!/bin/bash
# The metadata that ouster-sdk writes of its own default sensor is read back by it as that of a sensor that is off.
#
# ouster-sdk 1.0.1 (wheel from PyPI). Tests and simulations make a sensor with SensorInfo.from_default, save its metadata
# by to_json_string() beside their packets, and open both again. Parser and validator find nothing wrong with that JSON.
#
# Expected: SensorInfo(info.to_json_string()) has the profile of `info`, LEGACY, as the JSON says in
#           lidar_data_format.udp_profile_lidar, and packets of 12608 bytes.
# Seen:     its profile is OFF and its packets have 256 bytes, because config_params.udp_port_lidar, which from_default
#           leaves at 0, counts for more. With any other port (info.config.udp_port_lidar = 7502) all is as expected.
#
# Ends with 0 while this is so, with 1 once it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip"
"$pip" install --quiet --disable-pip-version-check \
  laspy more-itertools numpy packaging pillow prettytable psutil requests rosbags threadpoolctl zeroconf
# By itself: it asks for rosbags==0.9.23 and a web server, which metadata does not need.
"$pip" install --quiet --disable-pip-version-check --no-deps ouster-sdk==1.0.1
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys

from ouster.sdk.core import LidarMode, PacketFormat, SensorInfo, parse_and_validate_metadata


def told(info: SensorInfo) -> tuple[str, int]:
    """Profile, and bytes of a packet."""
    return str(info.format.udp_profile_lidar), PacketFormat(info).lidar_packet_size


info = SensorInfo.from_default(LidarMode._1024x10)
text = info.to_json_string()
_, issues = parse_and_validate_metadata(text)
written = json.loads(text)["lidar_data_format"]["udp_profile_lidar"]
back = told(SensorInfo(text))
info.config.udp_port_lidar = 7502
with_port = told(SensorInfo(info.to_json_string()))
print(f"from_default:          {told(info)}")
print(f"its JSON:              {written}, {len(issues.critical)} critical issues, {len(issues.warning)} warnings")
print(f"read back:             {back}")
print(f"read back with a port: {with_port}")
as_described = not issues.critical and written == "LEGACY" and back[0] == "OFF" and with_port == told(info)
sys.exit(0 if as_described else 1)
PYTHON
