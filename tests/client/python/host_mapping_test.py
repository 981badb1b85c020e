#!/usr/bin/env python3
"""The pages of a partition go back to the system with the last array on it."""

import gc
import mmap
import os
import unittest

import numpy

from zerocast._arrays import FRAMEWORKS, HostMapping

PAGE = mmap.PAGESIZE
PAGES = 64


def resident(fd):
    """Pages of the file that exist."""
    return os.fstat(fd).st_blocks * 512 // PAGE


class HostMappingTest(unittest.TestCase):

    def setUp(self):
        self.fd = os.memfd_create("zerocast-test")
        self.addCleanup(os.close, self.fd)
        os.write(self.fd, bytes(range(256)) * (PAGES * PAGE // 256))

    def mapping(self, shared=True):
        made = HostMapping(self.fd, PAGES * PAGE, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE,
                           mmap.PROT_READ | mmap.PROT_WRITE)
        if shared:
            made.advice = mmap.MADV_REMOVE
        return made

    def test_whole_pages_go_and_edges_stay(self):
        make = FRAMEWORKS["numpy"](self.mapping())
        first = make("uint8", 10 * PAGE + 64, 0)
        second = make("uint8", 5 * PAGE, 10 * PAGE + 64)
        last = make("uint8", 7 * PAGE, 20 * PAGE)
        self.assertEqual(resident(self.fd), PAGES)
        view = last[5:]
        del last
        gc.collect()
        self.assertEqual(resident(self.fd), PAGES, "a view holds it")
        del view
        gc.collect()
        self.assertEqual(resident(self.fd), PAGES - 7)
        del first
        gc.collect()
        self.assertEqual(resident(self.fd), PAGES - 17)
        pattern = bytes(range(256)) * (6 * PAGE // 256)
        self.assertEqual(second.tobytes(), pattern[64:64 + 5 * PAGE], "a neighbour lost bytes")

    def test_less_than_a_page_gives_nothing_back(self):
        make = FRAMEWORKS["numpy"](self.mapping())
        small = make("uint8", PAGE, 64)
        del small
        gc.collect()
        self.assertEqual(resident(self.fd), PAGES)

    def test_a_private_mapping_leaves_the_file_alone(self):
        make = FRAMEWORKS["numpy"](self.mapping(shared=False))
        array = make("uint8", PAGES * PAGE, 0)
        array[:] = 1
        del array
        gc.collect()
        self.assertEqual(resident(self.fd), PAGES)
        self.assertEqual(os.pread(self.fd, 4, 0), bytes(range(4)))

    def test_the_mapping_goes_with_the_last_array(self):
        def mapped():
            with open("/proc/self/maps", encoding="utf-8") as maps:
                return maps.read().count("/memfd:zerocast-test")

        array = FRAMEWORKS["numpy"](self.mapping())("uint8", 3 * PAGE, PAGE)
        gc.collect()
        self.assertEqual(mapped(), 1)
        self.assertEqual(int(numpy.sum(array[:256])), 255 * 128)
        del array
        gc.collect()
        self.assertEqual(mapped(), 0)


if __name__ == "__main__":
    unittest.main()
