"""The engine: how a pass of a convolution is computed, and by which algorithm.

A call comes down through these rooms and never goes up:

    plan.py                     the sizes of a layer, checked; arrays in normal form (N, C, D, H, W)
    engine/dispatch.py          views, and results that are not finite; else the algorithm of the pass
    engine/select.py            the algorithm of each pass: that of the least estimated time
    engine/estimates.py         ``counts`` of each algorithm times the nanoseconds of `machine.py`
    engine/<algorithm>.py       geometry to loops: blocks, jobs, scratch, tables of offsets
    engine/decompose.py         strides, dilations and taps along an axis: phases of stride 1
    engine/partition.py         jobs, split sums, tables
    engine/tensor.py            arrays as kernels take them; packing into a layout
    kernels/<algorithm>.py      compiled loops around the register tiles
    kernels/tile.py             the register tile of a product whose rows lie anywhere
    kernels/plane_tiles.py      the same with vectors along pixels, read through a table of offsets
    kernels/pack.py, simd.py    packing and unpacking; a machine vector as a value

`fastconv.engine.registry` lists the algorithms; CONTRIBUTING says how to add one.

Glossary
--------
pass
    One of three computations over the same arrays: forward, backward-input, backward-weight.
columns
    The matrix of `im2col`: one column for each pixel of the output, of all that its window reads.
tap
    One position of the kernel, (t, r, s); each multiplies one shifted view of the input.
pixel
    One position of an image or of the output, of all its channels.
lane, vector
    An element of a machine vector, and that vector: 16 floats with AVX-512.
register tile
    A block of results that stays in registers while a sum goes on; the micro-kernel computes one.
panel
    Packed rows or columns of a product, in the order in which a register tile reads them.
pack, unpack
    To copy into that order, or out of it.
halo
    Pixels around a block that its windows read, too.
band
    Some rows of an image with their halo and padding, packed.
block, job
    A part of the output that stays in a cache; blocks that one thread computes in one call.
split sum
    A sum over pixels in parts, which are added in a fixed order (split-K).
phase
    Of a stride s: the pixels whose positions have the same remainder by s; each is a convolution of stride 1.
offset table
    Where in memory each tap of a window lies, seen from its first (indirect convolution).
batch-reduce product
    Several products added up in one register tile: one for each tap.
filter, input and output transform
    Of Winograd's minimal filtering: to the points where products are taken, and back.
group
    Channels that are convolved by filters of their own; depthwise, where each channel is one.
channel block
    Filters that fill one vector, of one group or of several small ones.
edge class
    Pixels whose windows have the same taps inside the image.
scratch
    Memory that lives for one call.
epilogue
    What is done to a register tile before it is stored: adding the bias.
estimate
    Nanoseconds that a pass takes by an algorithm, from counts of what it does.
"""
