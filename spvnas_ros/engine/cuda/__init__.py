"""The CUDA engine: a plan's steps as Triton kernels, from raw points to labels without the host in between.

A frame is a fixed list of launches over buffers of a fixed capacity. Counts stay on the device, programs beyond them
end at once, and what did not fit is counted, so the host learns of it with the labels. Hence one CUDA graph per
capacity, one copy each way, and no synchronisation but the last.

1. Points become cells and 64-bit Morton keys; one stable sort makes the first point of a voxel its first.
2. Every level's voxels are runs in that order (`key >> 3 level`): one running count over all levels numbers them.
3. Neighbours are searched for at the coarsest level only; below, a neighbour is a child of the parent's neighbour.
4. One sort, over all levels, orders rows by their mask of neighbours with rare offsets on top. A tile of rows then
   needs few kernel offsets, and lists them. The transposed convolutions order rows by child slot in the same sort.
5. A convolution's tile gathers rows, multiplies and adds up in float32 over the listed offsets in one counted loop,
   then adds bias, residual and 1x1 skip, and applies ReLU. Concatenated inputs lie side by side in one array.
   Where tiles are too few for the GPU, each one's loop is shared out, and a second kernel adds the parts in order.
6. The point branch runs in Morton order; the classifier, argmax and softmax are one kernel.
"""

from spvnas_ros.engine.cuda.engine import CudaEngine
from spvnas_ros.engine.cuda.weights import HalfRangeError

__all__ = ["CudaEngine", "HalfRangeError"]
