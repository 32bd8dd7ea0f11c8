"""Launches of the kernels of groups: norms, penalties and interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...triton_kernels import groups, launch, penalty
from .arguments import CHUNK, CODES, address, aligned, cdiv, parameter_bytes, up

if TYPE_CHECKING:
    from . import Triton

PARTS = 8  # tensors in one launch; a longer list takes several
FEW = 128  # groups, whose sums over chunks and statistics one program also computes
FEW_STEPS = 4  # of 32 groups and 128 chunks each, that adding up a tensor's sums over chunks may take it
LONG = 2**31  # elements of a row, from which on indices take 64 bits
SQUARES, SCALED, DOTS, APART, GREATEST = range(5)


class NormTensor(NamedTuple):
    """A tensor as rows of elements, with what goes along with it: in the order of triton_kernels/groups.py."""

    dtype: torch.dtype
    length: int
    tensors: tuple[Tensor | None, ...]


class Layout(NamedTuple):
    """Sizes of rows and of elements, and strides of each tensor in both."""

    row_sizes: list[int]
    sizes: list[int]
    row_strides: list[list[int]]
    strides: list[list[int]]


def _merged(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[list[int], list[list[int]]]:
    """Return dimensions, those that merge in all tensors merged."""
    found: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for d, size in enumerate(sizes):
        if size == 1:
            continue
        if found and all([s[-1] == size * own[d] for s, own in zip(steps, strides, strict=True)]):
            found[-1] *= size
            for s, own in zip(steps, strides, strict=True):
                s[-1] = own[d]
            continue
        found.append(size)
        for s, own in zip(steps, strides, strict=True):
            s.append(own[d])
    return found, steps


def _straight(sizes: list[int], strides: list[list[int]]) -> bool:
    """Return whether all tensors have their elements in one order without gaps, logical or not."""
    first = strides[0]
    if any([s != first for s in strides]):
        return False
    step = 1
    for d in sorted(range(len(sizes)), key=lambda d: first[d]):
        if first[d] != step:
            return False
        step *= sizes[d]
    return True


def _layout(part: NormTensor, outer: int, any_order: bool) -> Layout:
    """Return the layout of a tensor's elements, without their dimensions if they lie in order."""
    there = [t for t in part.tensors if t is not None]
    shape, strides = there[0].shape, [t.stride() for t in there]
    row_sizes, row_steps = _merged(shape[:outer], [s[:outer] for s in strides])
    sizes, steps = _merged(shape[outer:], [s[outer:] for s in strides])
    plain = not sizes or (len(sizes) == 1 and all([s == [1] for s in steps]))
    if plain or (any_order and _straight(sizes, steps)):
        sizes, steps = [], [[] for _ in there]
    given = iter(zip(row_steps, steps, strict=True))
    both = [next(given) if t is not None else ([0] * len(row_sizes), [0] * len(sizes)) for t in part.tensors]
    return Layout(row_sizes, sizes, [b[0] for b in both], [b[1] for b in both])


def _padded(values: list[int], dims: int, fill: int) -> list[int]:
    return [fill] * (dims - len(values)) + values


class RowTable(NamedTuple):
    """What a launch over some parts is told, and how it is compiled: dims are those of rows and of elements.

    The kernel is compiled for so many `parts`, of which the last may not be there: no program has one.
    """

    addresses: tuple[int, ...]
    constants: tuple[int, ...]
    layout: tuple[int, ...]
    dims: tuple[int, int]
    access: int
    programs: int
    parts: int


class GroupLaunches:
    """One call of the kernels of groups: what all its launches have in common."""

    def __init__(
        self, parts: Sequence[NormTensor], rows_in_all: int, outer: int, transposed: bool, kernels: Triton
    ) -> None:
        self.parts = parts
        self.rows = rows_in_all
        self.outer = outer
        self.transposed = transposed
        self.kernels = kernels
        first = next(t for t in parts[0].tensors if t is not None)
        self.device = first.device
        self.dtypes = 0
        for p in parts:
            self.dtypes |= 1 << CODES[p.dtype]
        self.wide = self.dtypes == 2
        if self.dtypes & 2 and not self.wide:
            raise ValueError("float64 beside another dtype")
        self.psi, self.power, self.masked = 0, 2, False
        self.memory = [0] * groups.MEMORY.value
        self.held: list[Tensor] = []
        self.folded: list[tuple[int, int]] = []
        self.set(groups=rows_in_all, tensors=len(parts), groups_per_weight=1)

    def set(self, **entries: int) -> None:
        """Set entries of `memory`."""
        for name, value in entries.items():
            self.memory[getattr(groups, name.upper()).value] = value

    def scratch(self, doubles: int) -> int:
        """Return the address of so many float64 on the device."""
        self.held.append(torch.empty(doubles, dtype=torch.float64, device=self.device))
        return self.held[-1].data_ptr()

    def tables(
        self, units: Callable[[NormTensor], int], sums: Sequence[int], any_order: bool, wanted: Sequence[bool]
    ) -> Iterator[RowTable]:
        """Yield tables of up to PARTS of the wanted tensors, with units(tensor) programs each."""
        lies = [(k, _layout(p, self.outer, any_order)) for k, p in enumerate(self.parts) if wanted[k]]
        dr = max([1, *[len(lie.row_sizes) for _, lie in lies]])
        de = max([0, *[len(lie.sizes) for _, lie in lies]])
        a_part = 8 * (groups.ADDRESSES.value + groups.FIELDS.value + (dr + de) * (1 + groups.ADDRESSES.value))
        room = parameter_bytes(self.device.type) - 8 * groups.MEMORY.value
        most = max(1, min(PARTS, room // a_part))
        room = min(up(len(lies)), most)
        for begin in range(0, len(lies), room):
            yield self._table(lies[begin : begin + room], room, (dr, de), units, sums)

    def _table(
        self,
        lies: list[tuple[int, Layout]],
        room: int,
        dims: tuple[int, int],
        units: Callable[[NormTensor], int],
        sums: Sequence[int],
    ) -> RowTable:
        dr, de = dims
        addresses: list[int] = []
        constants: list[int] = []
        layout: list[int] = []
        programs = 0
        whole = 2 if self.wide else 8  # elements, of which 16 bytes are a divisor whatever the dtype
        in_step = de == 0
        for k, lie in lies:
            p = self.parts[k]
            addresses += [address(t) for t in p.tensors]
            constants += [p.length, programs, sums[k] if sums else 0, CODES[p.dtype]]
            programs += units(p)
            sizes, steps = lie.sizes, lie.strides
            if de and not sizes:  # without gaps, beside a part that has some
                sizes, steps = [p.length], [[1] for _ in p.tensors]
            layout += _padded(lie.row_sizes, dr, 1) + _padded(sizes, de, 1)
            for row_stride, stride in zip(lie.row_strides, steps, strict=True):
                layout += _padded(row_stride, dr, 0) + _padded(stride, de, 0)
                in_step = in_step and not any([s % whole for s in row_stride])
        absent = room - len(lies)
        addresses += [0] * (absent * groups.ADDRESSES.value)
        constants += [0, programs, 0, 0] * absent
        layout += ([1] * (dr + de) + [0] * ((dr + de) * groups.ADDRESSES.value)) * absent
        access = groups.ALIGNED_ACCESS.value if in_step and aligned(addresses) else 0
        if max([self.parts[k].length for k, _ in lies]) >= LONG:
            access = access or groups.LONG_GROUPS.value
        return RowTable(tuple(addresses), tuple(constants), tuple(layout), dims, access, programs, room)

    def sums(self, what: int) -> int:
        """Sum over the groups of each tensor, one tensor after another; return the address.

        Where `finish` adds up the sums over chunks, these are in `folded`: of each tensor their address, and how
        many a group has. At the address is room then.
        """
        result = self.scratch(self.rows * len(self.parts))
        longest = max([p.length for p in self.parts])
        lanes = min(128, up(longest))
        of_rows = 8 if longest > 128 else 1
        heavy = self.transposed or self.masked or self.wide or what != SQUARES
        at_once = min(of_rows, self.kernels.rows_at_once(heavy))
        t = self.kernels.tile // (lanes * at_once) if heavy or of_rows == 1 else 4
        whole = 1 < cdiv(longest, CHUNK) <= t and not self.transposed
        if whole:
            t = up(cdiv(longest, CHUNK))
        chunks = [1 if whole else cdiv(p.length, CHUNK) for p in self.parts]
        places = [result + 8 * self.rows * k for k in range(len(self.parts))]
        sources = [own if n == 1 else self.scratch(self.rows * n) for own, n in zip(places, chunks, strict=True)]

        def units(p: NormTensor) -> int:
            return self.rows if whole else cdiv(self.rows * cdiv(p.length, CHUNK), t)

        for table in self.tables(units, sources, False, [True] * len(self.parts)):
            launch.launch(
                groups.group_sums,
                table.programs,
                (table.addresses, table.constants, table.layout, tuple(self.memory)),
                (
                    table.parts, what, self.psi, self.power, self.masked, *table.dims, self.dtypes, table.access,
                    self.transposed, of_rows, at_once, t, lanes, whole,
                ),
                min(t, 4) if whole else 4,
            )  # fmt: skip
        self.folded = []
        if self.finish_folds(what, chunks):
            self.folded = list(zip(sources, chunks, strict=True))
            return result
        for source, own, n in zip(sources, places, chunks, strict=True):
            self._shrink(source, own, n, what == GREATEST)
        return result

    def finish_folds(self, what: int, chunks: Sequence[int]) -> bool:
        """Return whether `finish` can add up the sums over chunks itself, and there are some."""
        steps = sum([cdiv(self.rows, 32) * cdiv(n, 128) for n in chunks])
        spared = sum([n > 1 for n in chunks])  # launches
        if self.rows > FEW or len(self.parts) > PARTS or max(chunks) > CHUNK or steps > FEW_STEPS * spared:
            return False
        return not self.wide or what in (DOTS, APART)

    def _shrink(self, source: int, target: int, n: int, greatest: bool) -> None:
        while n > 1:
            left = cdiv(n, CHUNK)
            place = target if left == 1 else self.scratch(self.rows * left)
            t = 4 if self.rows * left >= 4 else 1
            launch.launch(
                groups.shrink, cdiv(self.rows * left, t), (source, place, self.rows, n, 0), (greatest, False, t), t
            )
            source, n = place, left

    def finish(
        self, what: int, result: Tensor | None, unreduced: bool, weighted: bool, numbers: Tensor | None = None
    ) -> None:
        """Make results of the sums over groups; `numbers` are those of PenaltyStats."""
        one, few = self.rows <= 16 * CHUNK, self.rows <= FEW
        room = up(len(self.folded)) if self.folded else 0
        absent = [(0, 0)] * (max(room, 1) - len(self.folded))
        constants = tuple([v for pair in (*self.folded, *absent) for v in pair])
        t = up(cdiv(self.rows, CHUNK)) if one else 4
        self.set(result=address(result), statistics=address(numbers))
        if not one and not unreduced:
            partial = self.scratch(cdiv(self.rows, CHUNK))
            self.set(partial=partial)
        launch.launch(
            penalty.penalty_groups,
            1 if one else cdiv(self.rows, t * CHUNK),
            (constants, tuple(self.memory)),
            (
                room, what, self.psi, self.power, self.wide, weighted, unreduced, one, few,
                few and numbers is not None, t, 1 if few else self.kernels.rows_at_once(True),
            ),
            8 if room else min(t, 8),
        )  # fmt: skip
        if not one and not unreduced:
            source, n = self._levels(partial, cdiv(self.rows, CHUNK))
            launch.launch(penalty.penalty_total, 1, (source, n, tuple(self.memory)), (what, self.wide), 4)
        if numbers is not None and not few:
            self._statistics()

    def _statistics(self) -> None:
        """Compute the numbers of PenaltyStats from the norms."""
        source = self.memory[groups.NORMS.value]
        statistics = self.memory[groups.STATISTICS.value]
        memory = tuple(self.memory)
        n = self.rows
        if n > CHUNK:
            launch.launch(penalty.penalty_mean, 1, (*self._levels(source, n), memory), (), 4)
            source, n = self._levels(source, n, statistics)
        launch.launch(penalty.penalty_statistics, 1, (source, n, memory), (self.rows <= CHUNK,), 4)

    def _levels(self, source: int, n: int, mean: int = 0) -> tuple[int, int]:
        """Add up levels of the tree above n float64, until a chunk is left: return its address and size.

        With the address of a mean: above the squares of deviations from it.
        """
        while n > CHUNK:
            place = self.scratch(cdiv(n, CHUNK))
            launch.launch(
                groups.shrink, cdiv(cdiv(n, CHUNK), 4), (source, place, 1, n, mean), (False, mean != 0, 4), 4
            )
            source, n, mean = place, cdiv(n, CHUNK), 0
        return source, n

    def items(self) -> tuple[int, int]:
        """Return how many groups a program has, and how many elements of each."""
        elements = min(self.kernels.block, up(max([p.length for p in self.parts])))
        if self.transposed:
            elements = min(elements, 8)
        return self.kernels.block // elements, elements

    def gradients(self, kernel: Any, constants: Callable[[RowTable, int, int], tuple[Any, ...]]) -> None:
        """Compute something of each element, for the tensors where it is wanted."""
        wanted = [
            p.tensors[groups.OUT.value] is not None or p.tensors[groups.OUT_2.value] is not None for p in self.parts
        ]
        t, elements = self.items()

        def units(p: NormTensor) -> int:
            return cdiv(self.rows, t) * cdiv(p.length, elements)

        for table in self.tables(units, (), True, wanted):
            arguments = (table.addresses, table.constants, table.layout, tuple(self.memory))
            launch.launch(kernel, table.programs, arguments, constants(table, t, elements), 4)
