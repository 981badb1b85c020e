"""Files as torch.save writes them, by a writer of its own: no torch is needed.

Tensors are {name: (dtype, shape, bytes)} as in cluster.read_safetensors. What is written varies from one to the next in
all that torch.save leaves open: storages of their own, storages with bytes before and behind, storages that several
tensors share, elements in column order, columns of a wider matrix, nn.Parameter.
"""

import itertools
import math
import struct
import zipfile

CLASSES = {"BF16": ("BFloat16Storage", 2), "F16": ("HalfStorage", 2), "F32": ("FloatStorage", 4),
           "F64": ("DoubleStorage", 8), "I64": ("LongStorage", 8), "U8": ("ByteStorage", 1), "BOOL": ("BoolStorage", 1)}
FORMS = ("own", "columns", "middle", "parameter", "gaps", "shared")


class Storage:
    """Bytes that tensors are views of."""

    def __init__(self, key, dtype):
        self.key, self.dtype, self.data = key, dtype, b""

    @property
    def num_elements(self):
        return len(self.data) // CLASSES[self.dtype][1]


def row_major(shape):
    return [math.prod(shape[k + 1:]) for k in range(len(shape))]


def spread(data, size, shape, strides):
    """The elements of a row-major tensor where `strides` put them, 0xEE between."""
    places = [sum(map(lambda i, s: i * s, index, strides)) for index in itertools.product(*map(range, shape))]
    out = bytearray(b"\xee" * size * (max(places) + 1))
    for k, place in enumerate(places):
        out[place * size:(place + 1) * size] = data[k * size:(k + 1) * size]
    return bytes(out)


class View:
    """One tensor: a storage, an offset in elements, strides."""

    def __init__(self, storage, shape, offset=0, strides=None, is_parameter=False):
        self.storage, self.shape, self.offset, self.is_parameter = storage, shape, offset, is_parameter
        self.strides = row_major(shape) if strides is None else strides


def place(tensors, forms=FORMS):
    """{name: View} of tensors that are stored in these forms, in turn."""
    views, shared, numbers, turn = {}, {}, itertools.count(), itertools.cycle(forms)
    for name, (dtype, shape, data) in tensors.items():
        size, form = CLASSES[dtype][1], next(turn)
        if form == "shared":
            storage = shared.setdefault(dtype, Storage("shared_" + dtype, dtype))
        else:
            storage = Storage(str(next(numbers)), dtype)
        view = View(storage, shape, storage.num_elements, is_parameter=form == "parameter")
        if form == "middle":
            storage.data, view.offset = b"\xee" * (3 * size), 3
        if data and len(shape) > 1 and form in ("columns", "gaps"):
            if form == "columns":
                view.strides = row_major(shape[::-1])[::-1]
            else:
                view.strides = row_major(list(shape[:-1]) + [shape[-1] + 3])
            data = spread(data, size, shape, view.strides)
        storage.data += data + (b"\xee" * size if form == "middle" else b"")
        views[name] = view
    return views


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


EMPTY = b"ccollections\nOrderedDict\n)R"


def pickled_view(view, is_legacy):
    storage = view.storage
    made = (b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage")
            + f"ctorch\n{CLASSES[storage.dtype][0]}\n".encode() + text(storage.key) + text("cpu")
            + number(storage.num_elements) + (b"N" if is_legacy else b"") + b"tQ" + number(view.offset)
            + numbers(view.shape) + numbers(view.strides) + b"\x89" + EMPTY + b"tR")
    if view.is_parameter:
        made = b"ctorch._utils\n_rebuild_parameter\n(" + made + b"\x88" + EMPTY + b"tR"
    return made


def write(path, views, is_legacy=False, more=b""):
    """Writes a dict of views; `more`: further keys and values, pickled."""
    items = b"".join(text(name) + pickled_view(view, is_legacy) for name, view in views.items())
    write_pickled(path, b"}(" + items + more + b"u", [view.storage for view in views.values()], is_legacy)


def write_pickled(path, pickled, storages=(), is_legacy=False):
    """Writes the object that `pickled`, without the first and the last opcode, makes."""
    storages = list({storage.key: storage for storage in storages}.values())
    if is_legacy:
        with open(path, "wb") as file:
            file.write(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.")
            file.write(b"\x80\x02}(" + text("protocol_version") + b"M\xe9\x03" + text("little_endian") + b"\x88u.")
            file.write(b"\x80\x02" + pickled + b".")
            file.write(b"\x80\x02](" + b"".join(text(storage.key) for storage in storages) + b"e.")
            for storage in storages:
                file.write(struct.pack("<q", storage.num_elements) + storage.data)
        return
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02" + pickled + b".")
        file.writestr("archive/byteorder", "little")
        for storage in storages:
            file.writestr("archive/data/" + storage.key, storage.data)
        file.writestr("archive/version", "3\n")
