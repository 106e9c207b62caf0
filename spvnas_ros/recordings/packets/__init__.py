"""Reads recordings of packets that come in streams: captures of the network (pcap), OSF files, and Ouster's packets in
bags. `containers/open_container.py` opens them as channels of PointCloud2, one message a rotation.
"""
