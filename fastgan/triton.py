"""The Triton kernels: where they can run, and how a call becomes launches.

What a kernel is told are integers: addresses, sizes, and float64 numbers by their bits. Those of them that do
not change from call to call (a loss with tensors of the same sizes) are kept with the loss's spec.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import native
from .native import Gradients, Kernels, Operands, Weights
from .rows import KINDS
from .terms import PHIS, Spec

OLDEST = (3, 6)


def _check_version() -> None:
    import triton

    if tuple(int(v) for v in triton.__version__.split(".")[:2]) < OLDEST:
        raise ImportError(f"Triton {triton.__version__} is older than {OLDEST[0]}.{OLDEST[1]}")


try:
    _check_version()
    from .triton_kernels import launch, loss, penalty, rows

    _import_error = None
except Exception as error:  # whatever an unknown package of this name does
    _import_error = str(error)

TERMS, PARTS = 16, 8  # in one launch; a longer list takes several
CHUNK = 1024
SLOTS = 8
ONE_TERM, ONE_CALL = 16, 32  # chunks of a term, and of a call, that a single program takes
_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
_FILL = 12
_FORWARD, _BACKWARD, _SECOND, _MEAN = range(4)
_SQUARES, _SCALED, _DOTS, _APART, _GREATEST = range(5)


# ---------------------------------------------------------------------------------- where they run


def parameter_bytes(kind: str) -> int:
    """How large a kernel's parameters may be on a kind of device."""
    if kind == "xpu":
        return 2048 - 64
    return 4096 - 64 if torch.version.hip else 4352 - 24


def most_terms(kind: str) -> int:
    """How many terms a launch can be told of."""
    a_term = 8 * (loss.FIELDS.value + loss.ADDRESSES.value)
    return min(TERMS, (parameter_bytes(kind) - 8 * loss.MEMORY.value) // a_term)


@cache
def unusable(kind: str, index: int) -> str | None:
    """Why the kernels cannot run on a device, or None where they can."""
    if _import_error:
        return f"Triton is not there ({_import_error}); it is an extra: pip install fastgan[triton]"
    if launch.INTERPRETED:
        return None if kind == "cpu" else "TRITON_INTERPRET=1 serves CPU tensors only"
    if kind == "cpu":
        return "the tensors are on the CPU (there they run under TRITON_INTERPRET=1 only)"
    try:
        import triton

        module = torch.get_device_module(kind)
        if kind == "xpu" and not module.get_device_properties(index).has_fp64:
            return "the device has no float64, in which sums are taken"
        with module.device(index):
            found = triton.runtime.driver.active.get_active_torch_device()
            if found.type != kind:
                return f"Triton's devices are {found.type}"
            return _trial(kind)
    except Exception as error:  # a missing compiler, a driver too old: the reference serves then
        return f"Triton cannot run: {str(error).strip() or type(error).__name__}"


def _trial(kind: str) -> None:
    """Compiles and loads a kernel with as many parameters as any."""
    terms = most_terms(kind)
    arguments = tuple([(0,) * n for n in (terms * loss.ADDRESSES.value, terms * loss.FIELDS.value, loss.MEMORY.value)])
    launch.load(loss.loss_elements, arguments, (terms, 1, 1, True, 1, False, False, False, -1, False, 1024), 4)


def missing() -> str | None:
    """Why there are no Triton kernels for any tensor, or None where there are."""
    if _import_error or launch.INTERPRETED:
        return unusable("cpu", 0)
    if not torch.accelerator.is_available():
        return "there is no accelerator (without one they run under TRITON_INTERPRET=1 only)"
    device = torch.accelerator.current_accelerator()
    return unusable(device.type, torch.accelerator.current_device_index()) if device else "there is no accelerator"


# ---------------------------------------------------------------------------------- numbers


def _bits(x: float) -> int:
    return struct.unpack("<q", struct.pack("<d", x))[0]


def _up(n: int) -> int:
    """The next power of two."""
    return 1 << max(0, n - 1).bit_length()


def _cdiv(n: int, d: int) -> int:
    return -(-n // d)


def _level_space(n: int) -> int:
    """Room for so many sums, and for the levels of the tree above them."""
    space = n
    while n > CHUNK:
        n = _cdiv(n, CHUNK)
        space += n
    return space


def _address(t: Tensor | None) -> int:
    if t is None:
        return 0
    p = t.data_ptr()
    if p == 0:
        raise ValueError("a tensor has no memory (a null address)")
    return p


def _aligned(addresses: Sequence[int]) -> bool:
    return not any([a % 16 for a in addresses])


def _mask(tensors: Sequence[Tensor]) -> int:
    """A bit for each dtype."""
    found = 0
    for t in tensors:
        found |= 1 << _CODES[t.dtype]
    return found


def _contiguous(t: Tensor) -> Tensor:
    return native.plain(t).contiguous()


# ---------------------------------------------------------------------------------- losses


class Table(NamedTuple):
    """What a launch over some terms is told that does not change from call to call.

    Attributes:
        bound: of each row, the term's number (None where there is none), x, y and the centre.
        constants: the rows; triton_kernels/loss.py says what is in them.
        kinds: a bit for each kind of phi.
        programs, partials: how many units and chunks there are.
    """

    bound: list[tuple[int | None, int, int, int]]
    constants: tuple[int, ...]
    kinds: int
    programs: int
    partials: int


def _row(**fields: int) -> list[int]:
    row = [0] * loss.FIELDS.value
    for name, value in fields.items():
        row[getattr(loss, name.upper()).value] = value
    return row


def _term_rows(
    spec: Spec, n: Sequence[int], codes: Sequence[int], weights: tuple[float, ...], mean: bool, on_device: bool
) -> Iterator[tuple[tuple[int | None, int, int, int], list[int]]]:
    """Of each term, its operands and its constants but for where its programs begin."""
    centres = [b.centre for b in spec.terms]
    for number, b in enumerate(spec.terms):
        phi, scale, shift, linear, weight = b.term
        if not on_device:
            weight = weight * weights[b.member] if weights else weight
            weight = weight / float(n[b.x]) if mean else weight
        centre = b.centre
        yield (
            (number, b.x, b.y, centre),
            _row(
                n=n[b.x], kind=2 * PHIS.index(phi) + (linear != 0), dtype=codes[b.x], scale=_bits(scale),
                shift=_bits(shift), linear=_bits(linear), weight=_bits(weight), member=b.member, centre=centre,
                centre_n=n[centre] if centre >= 0 else 1, centre_dtype=codes[centre] if centre >= 0 else 0,
                last_of_centre=int(centre >= 0 and centre not in centres[number + 1 :]), number_x=b.x, number_y=b.y,
                is_centre_x=int(b.x in centres), is_centre_y=int(b.y in centres), side=b.side,
                threshold=_bits(b.threshold), role=b.role, role_x=spec.roles[b.x],
                role_y=spec.roles[b.y] if b.y >= 0 else 0, number=number,
            ),
        )  # fmt: skip


def _fill_rows(
    spec: Spec, n: Sequence[int], codes: Sequence[int]
) -> Iterator[tuple[tuple[int | None, int, int, int], list[int]]]:
    """Operands that are centres and nothing else."""
    used = {b.x for b in spec.terms} | {b.y for b in spec.terms}
    for j in range(len(spec.roles)):
        if j not in used:
            row = _row(n=n[j], kind=_FILL, dtype=codes[j], centre=-1, number_x=j, number_y=-1, is_centre_x=1)
            yield (None, j, -1, -1), row


def _centre_rows(
    spec: Spec, n: Sequence[int], codes: Sequence[int], there: Sequence[bool]
) -> Iterator[tuple[tuple[int | None, int, int, int], list[int]]]:
    """Operands whose means are taken."""
    for j in sorted({b.centre for b in spec.terms if b.centre >= 0}):
        yield (None, j, -1, -1), _row(n=n[j], dtype=codes[j], centre=j, number=int(there[j]), number_y=-1)


def _tables(
    rows_of: Iterator[tuple[tuple[int | None, int, int, int], list[int]]], unit: int, most: int
) -> list[Table]:
    """Tables of up to `most` rows; a program has `unit` elements."""
    found = list(rows_of)
    tables = []
    for begin in range(0, len(found), most):
        bound, constants, kinds, programs, partials = [], [], 0, 0, 0
        earlier = {operands[3] for operands, _ in found[:begin]}
        for operands, row in found[begin : begin + most]:
            row[loss.CENTRE_X.value] = operands[3] if operands[3] in earlier else -1
            row[loss.UNIT.value], row[loss.CHUNKS.value] = programs, partials
            n = row[loss.N.value]
            programs += _cdiv(n, unit)
            partials += _level_space(_cdiv(n, CHUNK))
            kinds |= 1 << row[loss.KIND.value]
            bound.append(operands)
            constants += row
        tables.append(Table(bound, tuple(constants), kinds, programs, partials))
    return tables


class _LossCall:
    """One call of the losses' kernels: what all its launches have in common."""

    def __init__(
        self, spec: Spec, tensors: Operands, weights: Weights, mean: bool, aux: Tensor | None, kernels: Triton
    ) -> None:
        self.spec = spec
        self.tensors = tensors
        self.mean = mean
        self.kernels = kernels
        self.n = [t.numel() for t in tensors]
        self.codes = [_CODES[t.dtype] for t in tensors]
        self.dtypes = _mask(tensors)
        self.wide = self.dtypes == 2
        if self.dtypes & 2 and not self.wide:
            raise ValueError("float64 beside another dtype")
        self.weights: tuple[float, ...] = ()
        self.weighted = -1
        self.memory = [0] * loss.MEMORY.value
        if isinstance(weights, Tensor):
            self.weighted = _CODES[weights.dtype]
            self.set(weights=_address(weights))
        else:
            self.weights = weights
        self.most = most_terms(tensors[0].device.type)
        self.operands = _up(len(tensors)) if spec.centred else 1
        self.paired = any([b.y >= 0 for b in spec.terms])
        self.held: list[Tensor] = []  # until all is launched: what comes later on the stream may have it then
        if aux is not None:
            place = _address(aux)
            self.set(means=place, constants=place + 8 * len(tensors), values=place + 16 * len(tensors))
            self.set(statistics=place + 16 * len(tensors) + 8 * len(spec.terms))
        self.keep = aux is not None

    def set(self, **entries: int) -> None:
        """Entries of `memory`."""
        for name, value in entries.items():
            self.memory[getattr(loss, name.upper()).value] = value

    def scratch(self, doubles: int) -> int:
        """The address of so many float64, on the operands' device."""
        self.held.append(torch.empty(doubles, dtype=torch.float64, device=self.tensors[0].device))
        return self.held[-1].data_ptr()

    def tables(self, what: str, unit: int, there: tuple[bool, ...] = ()) -> list[Table]:
        """The tables of all terms ("terms"; "all": and of centres that are nothing else) or of the "means"."""
        weights = tuple([_bits(w) for w in self.weights])  # 0.0 and -0.0 are one key, but not one weight
        key = (what, unit, self.most, tuple(self.n), tuple(self.codes), weights, self.weighted >= 0, self.mean, there)
        plans = self.kernels.plans_of(self.spec)
        found = plans.get(key)
        if found is None:
            found = plans[key] = self._make(what, unit, there)
        return found

    def _make(self, what: str, unit: int, there: tuple[bool, ...]) -> list[Table]:
        if what == "means":
            return _tables(_centre_rows(self.spec, self.n, self.codes, there), unit, self.most)
        made = list(_term_rows(self.spec, self.n, self.codes, self.weights, self.mean, self.weighted >= 0))
        if what == "all":
            made += _fill_rows(self.spec, self.n, self.codes)
        return _tables(iter(made), unit, self.most)

    def addresses(
        self, table: Table, x: Gradients, g: Gradients, v: Gradients, out: Gradients, up: Gradients, centres: bool
    ) -> tuple[int, ...]:
        """The rows of addresses of a table."""
        found: list[int] = []
        for number, i, j, c in table.bound:
            for list_of in (x, g, v):
                found.append(_address(list_of[i]) if list_of else 0)
                found.append(_address(list_of[j]) if list_of and j >= 0 else 0)
            if centres:
                found.append(_address(self.tensors[c]) if c >= 0 else 0)
            else:
                found.append(_address(out[number]) if out and number is not None else 0)
            found.append(_address(up[number]) if up and number is not None else 0)
        return tuple(found)

    def chunks_at_once(self, tables: list[Table]) -> int:
        """How many chunks a program has: few where there are few."""
        return 1 if sum([t.partials for t in tables]) < 2048 else 4

    def one(self, tables: list[Table], centres: bool) -> int:
        """The chunks that a single program would take at a time, or 0 where it would take too long."""
        if len(tables) > 1:
            return 0
        chunks = [_cdiv(self.n[i], CHUNK) for _, i, _, _ in tables[0].bound]
        if centres:
            chunks += [_cdiv(self.n[c], CHUNK) for _, _, _, c in tables[0].bound if c >= 0]
        return _up(max(chunks)) if max(chunks) <= ONE_TERM and sum(chunks) <= ONE_CALL else 0

    def sums(
        self, what: int, slopes: bool = False, stats: bool = False, v: Gradients = (), up: Gradients = (),
        single: bool = True,
    ) -> None:  # fmt: skip
        """The sums of a call and what is made of them: one launch where one program can do it, else two a table."""
        tables = self.tables("terms", CHUNK)
        centred = self.spec.centred
        t = self.one(tables, centred and what == _FORWARD) if single else 0
        one = t > 0
        if centred and what == _FORWARD and not one:
            self.means(self.tensors, "means")
        if not one:
            t = self.chunks_at_once(tables)
        tables = self.tables("terms", (ONE_TERM if one else t) * CHUNK)
        slots = SLOTS if stats else 3 if what == _SECOND else 2
        if not one:
            most = max([table.partials for table in tables])
            self.set(partial=self.scratch(slots * most), partials=most)
        if len(tables) > 1:
            self.set(carry=self.scratch(13))
        rows_at_once = self.kernels.rows_at_once(slopes or stats or what == _SECOND or self.wide)
        for k, table in enumerate(tables):
            addresses = self.addresses(
                table, self.tensors, (), v, (), up, one and centred and what == _FORWARD
            )  # fmt: skip
            memory, first, last = tuple(self.memory), k == 0, k == len(tables) - 1
            count = len(table.bound)
            shared = (self.weighted, self.mean, first, last, self.operands)
            launch.launch(
                loss.loss_sums,
                1 if one else table.programs,
                (addresses, table.constants, memory),
                (
                    count, table.kinds, self.dtypes, _aligned(addresses), what, self.paired, centred, slopes, stats,
                    self.keep, bool(up), *shared, one, t, rows_at_once,
                ),
                min(t, 8),
            )  # fmt: skip
            if not one:
                self._finish(table, what, slopes, stats, shared)

    def _finish(self, table: Table, what: int, slopes: bool, stats: bool, shared: tuple[Any, ...]) -> None:
        count = len(table.bound)
        launch.launch(
            loss.loss_finish,
            1,
            (table.constants, tuple(self.memory)),
            (count, what, self.wide, self.paired, slopes, stats, self.keep, *shared, 4),
            4 if count <= 4 else 8,
        )

    def means(self, operands: Gradients, where: str) -> None:
        """Means of the operands that are centres, or of their cotangents: two launches a table."""
        there = tuple([o is not None for o in operands])
        place = self.memory[loss.MEANS.value if where == "means" else loss.V_MEANS.value]
        t = self.chunks_at_once(self.tables("means", CHUNK, there))
        for table in self.tables("means", t * CHUNK, there):
            self.set(partial=self.scratch(table.partials), partials=table.partials)
            memory = list(self.memory)
            memory[loss.MEANS.value] = place
            addresses = self.addresses(table, operands, (), (), (), (), False)
            shared = (-1, False, True, True, 1)
            count = len(table.bound)
            if any([there[i] for _, i, _, _ in table.bound]):
                found = [o if o is not None else self.tensors[i] for i, o in enumerate(operands)]
                addresses = self.addresses(table, tuple(found), (), (), (), (), False)
                launch.launch(
                    loss.loss_sums,
                    table.programs,
                    (addresses, table.constants, tuple(memory)),
                    (
                        count, 1, self.dtypes, _aligned(addresses), _MEAN, False, False, False, False, False, False,
                        *shared, False, t, 8,
                    ),
                    t,
                )  # fmt: skip
            launch.launch(
                loss.loss_finish,
                1,
                (table.constants, tuple(memory)),
                (count, _MEAN, self.wide, False, False, False, False, *shared, 4),
                4 if count <= 4 else 8,
            )

    def elements(self, what: int, g: Gradients, v: Gradients, out: Gradients, up: Gradients) -> None:
        """What there is one of an element: one launch a table."""
        fills = self.spec.centred and what != _FORWARD
        block = self.kernels.block
        for table in self.tables("all" if fills else "terms", block):
            addresses = self.addresses(table, self.tensors, g, v, out, up, False)
            launch.launch(
                loss.loss_elements,
                table.programs,
                (addresses, table.constants, tuple(self.memory)),
                (
                    len(table.bound), table.kinds, self.dtypes, _aligned(addresses), what, self.paired,
                    self.spec.centred, bool(up), self.weighted, self.mean, block,
                ),
                4,
            )  # fmt: skip


# ---------------------------------------------------------------------------------- rows


class Part(NamedTuple):
    """A tensor as rows of elements, with what goes along with it: in the order of triton_kernels/rows.py."""

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
    """Dimensions, those that merge in all tensors merged."""
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
    """Whether all tensors have their elements in one order without gaps, though it be another than the logical."""
    first = strides[0]
    if any([s != first for s in strides]):
        return False
    step = 1
    for d in sorted(range(len(sizes)), key=lambda d: first[d]):
        if first[d] != step:
            return False
        step *= sizes[d]
    return True


def _layout(part: Part, outer: int, any_order: bool) -> Layout:
    """Where the elements of a part lie; without dimensions of elements where they lie as they come."""
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


class _RowTable(NamedTuple):
    addresses: tuple[int, ...]
    constants: tuple[int, ...]
    layout: tuple[int, ...]
    dims: tuple[int, int]
    access: int
    programs: int
    count: int


class _RowCall:
    """One call of the kernels of rows."""

    def __init__(self, parts: Sequence[Part], rows_in_all: int, outer: int, across: bool, kernels: Triton) -> None:
        self.parts = parts
        self.rows = rows_in_all
        self.outer = outer
        self.across = across
        self.kernels = kernels
        first = next(t for t in parts[0].tensors if t is not None)
        self.device = first.device
        self.dtypes = 0
        for p in parts:
            self.dtypes |= 1 << _CODES[p.dtype]
        self.wide = self.dtypes == 2
        if self.dtypes & 2 and not self.wide:
            raise ValueError("float64 beside another dtype")
        self.psi, self.power, self.masked = 0, 2, False
        self.memory = [0] * rows.MEMORY.value
        self.held: list[Tensor] = []
        self.set(rows=rows_in_all, parts=len(parts), rows_per_weight=1)

    def set(self, **entries: int) -> None:
        """Entries of `memory`."""
        for name, value in entries.items():
            self.memory[getattr(rows, name.upper()).value] = value

    def scratch(self, doubles: int) -> int:
        """The address of so many float64, on the device."""
        self.held.append(torch.empty(doubles, dtype=torch.float64, device=self.device))
        return self.held[-1].data_ptr()

    def tables(
        self, units: Callable[[Part], int], sums: Sequence[int], any_order: bool, wanted: Sequence[bool]
    ) -> Iterator[_RowTable]:
        """Tables of up to PARTS of the wanted parts; units(part) programs each."""
        lies = [(k, _layout(p, self.outer, any_order)) for k, p in enumerate(self.parts) if wanted[k]]
        dr = max([1, *[len(lie.row_sizes) for _, lie in lies]])
        de = max([0, *[len(lie.sizes) for _, lie in lies]])
        a_part = 8 * (rows.ADDRESSES.value + rows.FIELDS.value + (dr + de) * (1 + rows.ADDRESSES.value))
        room = parameter_bytes(self.device.type) - 8 * rows.MEMORY.value
        most = max(1, min(PARTS, room // a_part))
        for begin in range(0, len(lies), most):
            yield self._table(lies[begin : begin + most], (dr, de), units, sums)

    def _table(
        self, lies: list[tuple[int, Layout]], dims: tuple[int, int], units: Callable[[Part], int], sums: Sequence[int]
    ) -> _RowTable:
        dr, de = dims
        addresses: list[int] = []
        constants: list[int] = []
        layout: list[int] = []
        programs = 0
        whole = 2 if self.wide else 8  # elements, of which 16 bytes are a divisor whatever the dtype
        aligned = de == 0
        for k, lie in lies:
            p = self.parts[k]
            addresses += [_address(t) for t in p.tensors]
            constants += [p.length, programs, sums[k] if sums else 0, _CODES[p.dtype]]
            programs += units(p)
            sizes, steps = lie.sizes, lie.strides
            if de and not sizes:  # without gaps, beside a part that has some
                sizes, steps = [p.length], [[1] for _ in p.tensors]
            layout += _padded(lie.row_sizes, dr, 1) + _padded(sizes, de, 1)
            for row_stride, stride in zip(lie.row_strides, steps, strict=True):
                layout += _padded(row_stride, dr, 0) + _padded(stride, de, 0)
                aligned = aligned and not any([s % whole for s in row_stride])
        access = rows.ALIGNED_ACCESS.value if aligned and _aligned(addresses) else 0
        if max([self.parts[k].length for k, _ in lies]) >= 2**31:
            access = access or rows.LONG_ROWS.value
        return _RowTable(tuple(addresses), tuple(constants), tuple(layout), dims, access, programs, len(lies))

    def sums(self, what: int) -> int:
        """The sums over rows of each part, one part after another: their address."""
        result = self.scratch(self.rows * len(self.parts))
        longest = max([p.length for p in self.parts])
        lanes = min(128, _up(longest))
        of_rows = 8 if longest > 128 else 1
        heavy = self.across or self.masked or self.wide or what != _SQUARES
        at_once = min(of_rows, self.kernels.rows_at_once(heavy))
        t = self.kernels.tile // (lanes * at_once) if heavy or of_rows == 1 else 4
        targets, pending = [], []
        for k, p in enumerate(self.parts):
            chunks = _cdiv(p.length, CHUNK)
            own = result + 8 * self.rows * k
            targets.append(own if chunks == 1 else self.scratch(self.rows * chunks))
            if chunks > 1:
                pending.append((targets[-1], own, chunks))
        for table in self.tables(
            lambda p: _cdiv(self.rows * _cdiv(p.length, CHUNK), t), targets, False, [True] * len(self.parts)
        ):
            launch.launch(
                rows.row_sums,
                table.programs,
                (table.addresses, table.constants, table.layout, tuple(self.memory)),
                (
                    table.count, what, self.psi, self.power, self.masked, *table.dims, self.dtypes, table.access,
                    self.across, of_rows, at_once, t, lanes,
                ),
                4,
            )  # fmt: skip
        for source, own, chunks in pending:
            self._shrink(source, own, chunks, what == _GREATEST)
        return result

    def _shrink(self, source: int, target: int, n: int, greatest: bool) -> None:
        while n > 1:
            left = _cdiv(n, CHUNK)
            place = target if left == 1 else self.scratch(self.rows * left)
            t = 4 if self.rows * left >= 4 else 1
            launch.launch(
                rows.shrink, _cdiv(self.rows * left, t), (source, place, self.rows, n), (greatest, t), t
            )
            source, n = place, left

    def finish(self, what: int, result: Tensor | None, unreduced: bool, weighted: bool) -> None:
        """From sums over rows to results."""
        one = self.rows <= 16 * CHUNK
        t = _up(_cdiv(self.rows, CHUNK)) if one else 4
        self.set(result=_address(result))
        if not one and not unreduced:
            self.set(partial=self.scratch(_level_space(_cdiv(self.rows, CHUNK))))
        launch.launch(
            penalty.penalty_rows,
            1 if one else _cdiv(self.rows, t * CHUNK),
            (tuple(self.memory),),
            (what, self.psi, self.power, self.wide, weighted, unreduced, one, t, self.kernels.rows_at_once(True)),
            min(t, 8),
        )
        if not one and not unreduced:
            launch.launch(penalty.penalty_total, 1, (tuple(self.memory),), (what, self.wide, 4), 4)

    def items(self, part: Part) -> tuple[int, int]:
        """Rows and elements of each that a program has."""
        elements = min(self.kernels.block, _up(max([p.length for p in self.parts])))
        if self.across:
            elements = min(elements, 8)
        return self.kernels.block // elements, elements

    def gradients(self, kernel: Any, constants: Callable[[_RowTable, int, int], tuple[Any, ...]]) -> None:
        """Whatever there is one of an element, of the parts where something is wanted."""
        wanted = [p.tensors[rows.OUT.value] is not None or p.tensors[rows.OUT_2.value] is not None for p in self.parts]
        t, elements = self.items(self.parts[0])

        def units(p: Part) -> int:
            return _cdiv(self.rows, t) * _cdiv(p.length, elements)

        for table in self.tables(units, (), True, wanted):
            arguments = (table.addresses, table.constants, table.layout, tuple(self.memory))
            launch.launch(kernel, table.programs, arguments, constants(table, t, elements), 4)


# ---------------------------------------------------------------------------------- the kernels


class Triton(Kernels):
    """On the current stream of the tensors' device; under TRITON_INTERPRET=1 on the CPU."""

    # Elements of a program, and how many of them it works on at a time: a thread has few. The interpreter wants many.
    block = 16384 if _import_error is None and launch.INTERPRETED else 1024
    tile = 4096 if _import_error is None and launch.INTERPRETED else 1024

    def __init__(self) -> None:
        super().__init__(None, "")

    def _where(self, t: Tensor) -> None:
        return None

    def rows_at_once(self, heavy: bool) -> int:
        """How many of a chunk's 8 rows a program works on at a time: of what needs many registers, one."""
        return 1 if heavy and not launch.INTERPRETED else 8

    def _run(self, name: str, t: Tensor, *arguments: Any) -> None:
        run = getattr(self, "_" + name)
        if t.is_cpu or t.device.index == torch.accelerator.current_device_index():
            return run(*arguments)
        with torch.get_device_module(t.device).device(t.device):
            return run(*arguments)

    def _spec(self, spec: Spec) -> Spec:
        return spec

    @staticmethod
    def plans_of(spec: Spec) -> dict[Any, list[Table]]:
        """The tables that have been made for a spec."""
        if spec.plans is None or len(spec.plans) > 256:
            spec.plans = {}
        return spec.plans

    def weights(self, weights: Tensor) -> Tensor:
        return _contiguous(weights.detach())

    def plain(self, t: Tensor) -> Tensor:
        return native.plain(t)

    # Losses look at contiguous tensors only; what has gaps, which logits rarely have, is copied.

    def forward(self, spec: Spec, tensors: Operands, *arguments: Any) -> Any:
        return super().forward(spec, self._packed(tensors), *arguments)

    def backward(
        self, spec: Spec, tensors: Operands, weights: Weights, reduction: str, aux: Tensor | None, upstream: Operands,
        need: Sequence[bool],
    ) -> Gradients:  # fmt: skip
        return super().backward(
            spec, self._packed(tensors), weights, reduction, aux, self._packed(upstream), need
        )

    def second(
        self, spec: Spec, tensors: Operands, weights: Weights, reduction: str, aux: Tensor | None, upstream: Operands,
        cotangents: Gradients, need: Sequence[bool],
    ) -> tuple[Operands, Gradients]:  # fmt: skip
        packed = tuple([None if v is None else _contiguous(v) for v in cotangents])
        return super().second(
            spec, self._packed(tensors), weights, reduction, aux, self._packed(upstream), packed, need
        )

    @staticmethod
    def _packed(tensors: Operands) -> Operands:
        return tuple([t if t.is_contiguous() and not t.is_neg() else _contiguous(t) for t in tensors])

    def _forward(
        self, spec: Spec, x: Operands, units: Any, result: Any, weights: Weights, reduction: int, aux: Tensor | None,
        stats: bool, keep: bool,
    ) -> None:  # fmt: skip
        call = _LossCall(spec, x, weights, reduction == 2, aux, self)
        if reduction == 0:
            if spec.centred:
                call.means(x, "means")
            return call.elements(_FORWARD, (), (), result, ())
        call.set(result=_address(result))
        return call.sums(_FORWARD, slopes=spec.centred and keep, stats=stats)

    def _backward(
        self, spec: Spec, x: Operands, g: Gradients, upstream: Operands, weights: Weights, reduction: int,
        aux: Tensor | None,
    ) -> None:  # fmt: skip
        call = _LossCall(spec, x, weights, reduction == 2, aux, self)
        up: Gradients = ()
        if reduction == 0:
            up = upstream
            if spec.centred:  # constants that this upstream gives
                call.set(constants=call.scratch(len(x)))
                call.sums(_BACKWARD, slopes=True, up=up)
        else:
            call.set(scalar=_address(upstream[0]))
        call.elements(_BACKWARD, g, (), (), up)

    def _second(
        self, spec: Spec, x: Operands, g: Gradients, v: Gradients, upstream: Operands, result: Any, weights: Weights,
        reduction: int, aux: Tensor | None,
    ) -> None:  # fmt: skip
        call = _LossCall(spec, x, weights, reduction == 2, aux, self)
        up: Gradients = upstream if reduction == 0 else ()
        if spec.centred:
            call.set(v_means=call.scratch(len(x)), constants=call.scratch(len(x)))
            call.means(v, "v_means")
        if reduction:
            call.set(result=_address(result), scalar=_address(upstream[0]))
        if spec.centred or reduction:
            call.sums(_SECOND, slopes=spec.centred, v=v, up=up)
        call.elements(_SECOND, g, v, result if reduction == 0 else (), up)

    def _penalty(
        self, codes: tuple[Any, ...], tensors: Operands, masks: Gradients | None, weights: Tensor | None, kept: Tensor,
        vs: Gradients | None = None, outs: Gradients | None = None,
    ) -> _RowCall:  # fmt: skip
        psi, target, power, scale, outer, across = codes
        rows_in_all = kept.numel()
        nothing: Gradients = (None,) * len(tensors)
        lists = zip(tensors, masks or nothing, vs or nothing, outs or nothing, strict=True)
        parts = [Part(x.dtype, x.numel() // rows_in_all, (x, m, v, out, None)) for x, m, v, out in lists]
        call = _RowCall(parts, rows_in_all, outer, across, self)
        call.psi, call.power, call.masked = psi, power if KINDS[psi] == "power" else 2, masks is not None
        call.set(norms=_address(kept), target=_bits(target), scale=_bits(scale))
        if weights is not None:
            call.set(weights=_address(weights), rows_per_weight=rows_in_all // weights.numel())
        return call

    def _penalty_forward(
        self, codes: tuple[Any, ...], tensors: Operands, masks: Gradients | None, weights: Tensor | None, kept: Tensor,
        result: Tensor, unreduced: bool, numbers: Tensor | None,
    ) -> None:  # fmt: skip
        call = self._penalty(codes, tensors, masks, weights, kept)
        call.set(squares_of=call.sums(_SQUARES))
        if call.wide:
            call.set(greatest_of=call.sums(_GREATEST))
            call.set(scaled_of=call.sums(_SCALED))
        if numbers is not None:
            call.set(of_norms=call.scratch(_level_space(call.rows)))
        call.finish(_SQUARES, result, unreduced, weights is not None)
        if numbers is not None:
            call.set(statistics=_address(numbers))
            launch.launch(penalty.penalty_statistics, 1, (tuple(call.memory),), (4,), 4)

    def _penalty_backward(
        self, codes: tuple[Any, ...], tensors: Operands, masks: Gradients | None, weights: Tensor | None, kept: Tensor,
        upstream: Tensor, elementwise: bool, outs: Gradients,
    ) -> None:  # fmt: skip
        call = self._penalty(codes, tensors, masks, weights, kept, outs=outs)
        call.set(upstream=_address(upstream))
        self._write(call, _SQUARES, weights is not None, elementwise)

    def _penalty_second(
        self, codes: tuple[Any, ...], tensors: Operands, masks: Gradients | None, weights: Tensor | None, kept: Tensor,
        upstream: Tensor, elementwise: bool, vs: Gradients, outs: Gradients, up_grad: Tensor,
    ) -> None:  # fmt: skip
        call = self._penalty(codes, tensors, masks, weights, kept, vs, outs)
        call.set(upstream=_address(upstream))
        call.set(squares_of=call.sums(_DOTS))
        call.finish(_DOTS, up_grad, elementwise, weights is not None)
        self._write(call, _DOTS, weights is not None, elementwise)

    @staticmethod
    def _write(call: _RowCall, what: int, weighted: bool, elementwise: bool) -> None:
        call.gradients(
            penalty.penalty_gradient,
            lambda table, t, elements: (
                table.count, what, call.psi, call.power, call.masked, weighted, elementwise, *table.dims, call.dtypes,
                table.access, call.across, t, elements,
            ),
        )  # fmt: skip

    def _interpolation(self, lists: Sequence[Gradients], eps: Tensor) -> _RowCall:
        parts = []
        for tensors in zip(*lists, strict=True):
            first = next(t for t in tensors if t is not None)
            parts.append(Part(first.dtype, first.numel() // eps.numel(), tensors))
        call = _RowCall(parts, eps.numel(), 1, False, self)
        call.set(eps=_address(eps))
        return call

    def _interpolate_forward(self, real: Operands, fake: Operands, eps: Tensor, out: Operands) -> None:
        nothing: Gradients = (None,) * len(real)
        self._points(self._interpolation((real, nothing, fake, out, nothing), eps), False)

    @staticmethod
    def _points(call: _RowCall, backward: bool) -> None:
        call.gradients(
            penalty.interpolate,
            lambda table, t, elements: (
                table.count, backward, *table.dims, call.dtypes, table.access, t, elements
            ),
        )  # fmt: skip

    def _interpolate_backward(
        self, real: Operands, fake: Operands, eps: Tensor, upstream: Operands, real_grads: Gradients,
        fake_grads: Gradients, eps_grad: Tensor | None,
    ) -> None:  # fmt: skip
        nothing: Gradients = (None,) * len(real)
        self._points(self._interpolation((nothing, upstream, nothing, real_grads, fake_grads), eps), True)
        if eps_grad is not None:
            call = self._interpolation((real, upstream, fake, nothing, nothing), eps)
            call.masked = True
            call.set(squares_of=call.sums(_APART))
            call.finish(_APART, eps_grad, True, False)


KERNELS = Triton()
