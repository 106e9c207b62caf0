"""python -m spvnas_ros.cli"""

from spvnas_ros.cli import main

main()
