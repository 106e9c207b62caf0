"""The CUDA engine: a plan's steps as Triton kernels, from raw points to labels and boxes without the host in between.

`engine.cuda_engine` makes it, and `bench` measures it.

A frame is a fixed list of launches over buffers of a fixed capacity. Counts stay on the device, and programs beyond a
count end at once. Voxels that do not fit are counted, and the host learns of them with the labels. One CUDA graph per
capacity, one copy each way and one synchronisation at the end are therefore enough.

1. Points become cells and 64-bit Morton keys. The sort is stable, so the first point of a voxel in the cloud comes
   first.
2. Every level's voxels are runs in that order (`key >> 3 level`). One running count over all levels numbers them.
3. Neighbours are searched for at the coarsest level only. Below it, a neighbour is a child of the parent's neighbour.
4. One sort, over all levels, orders rows by their mask of neighbours with rare offsets on top. A tile of rows then
   needs few kernel offsets, and lists them. The same sort orders the rows of the transposed convolutions by child slot.
5. A convolution's tile gathers rows, multiplies, and sums in float32 over the listed offsets in one counted loop. It
   then adds bias, residual and 1x1 skip, and applies ReLU. Concatenated inputs lie side by side in one array. Where
   tiles are too few for the GPU, each tile's loop is divided into parts, and a second kernel adds the parts in order.
6. The point branch runs in Morton order. The classifier, argmax and softmax are one kernel.
7. Where boxes are asked for, the voxels of a level are summed up in columns, cuDNN convolves the bird's-eye view, and
   the best anchors are decoded and displace each other, all in fixed sizes (`box_frame`).
"""

from spvnas_ros.engine.cuda.engine import CudaEngine
from spvnas_ros.engine.cuda.packed_weights import HalfRangeError

__all__ = ["CudaEngine", "HalfRangeError"]
