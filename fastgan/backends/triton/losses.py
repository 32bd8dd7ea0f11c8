"""Calls of the losses' kernels: terms as tables of integers, and the launches over them.

What does not change from call to call (a loss with tensors of the same sizes) is kept with the loss's spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...triton_kernels import launch, loss, phi
from ..base import Gradients, LossBuffers, Operands, Weights
from ..specs import LossSpec
from .arguments import CHUNK, CODES, address, aligned, bits, cdiv, dtype_bits, level_space, parameter_bytes, up

if TYPE_CHECKING:
    from . import Triton

TERMS = 16  # in one launch; a longer list takes several
SLOTS = 8  # slots of sums
ONE_TERM, ONE_CALL = 16, 32  # chunks of a term, and of a call, that a single program takes
FORWARD, BACKWARD, SECOND, MEAN = range(4)


def most_terms(kind: str, masked: bool = False) -> int:
    """Return how many terms fit into the parameters of a launch; `masked` ones have factors or labels."""
    own = loss.CONSTANTS_PER_ELEMENT.value if masked else 0
    a_term = 8 * (loss.FIELDS.value + loss.ADDRESSES.value + own)
    return min(TERMS, (parameter_bytes(kind) - 8 * (loss.MEMORY.value + 1)) // a_term)


class Table(NamedTuple):
    """The arguments of a launch over some terms that do not change from call to call.

    Attributes:
        bound: of each row, the term's number (None where there is none), x, y and the mean operand.
        room: how many terms the kernel is compiled for; the last may not be there.
        constants: the rows, then how many there are; triton_kernels/loss.py says what is in them.
        phi_codes: a bit for each code of triton_kernels/phi.py.
        programs, partials: how many units and chunks there are.
    """

    bound: list[tuple[int | None, int, int, int]]
    room: int
    constants: tuple[int, ...]
    phi_codes: int
    programs: int
    partials: int


def _row(**fields: int) -> list[int]:
    row = [0] * loss.FIELDS.value
    for name, value in fields.items():
        row[getattr(loss, name.upper()).value] = value
    return row


def _no_row(programs: int, partials: int) -> list[int]:
    """Return the row of a term that is not there, behind those that have so many programs and partial sums."""
    return _row(
        first_program=programs, chunks=partials, mean_operand=-1, mean_operand_n=1, mean_operand_x=-1, number_x=-1,
        number_y=-1,
    )  # fmt: skip


def _term_rows(
    spec: LossSpec, n: Sequence[int], codes: Sequence[int], weights: tuple[float, ...], mean: bool, on_device: bool
) -> Iterator[tuple[tuple[int | None, int, int, int], list[int]]]:
    """Yield each term's operands and constants, without the number of its first program."""
    means = [b.mean_operand for b in spec.terms]
    for number, b in enumerate(spec.terms):
        name, scale, shift, linear, weight = b.term
        if not on_device:
            weight = weight * weights[b.member] if weights else weight
            weight = weight / float(n[b.x]) if mean else weight
        m = b.mean_operand
        yield (
            (number, b.x, b.y, m),
            _row(
                n=n[b.x], phi_code=2 * phi.PHIS.index(name) + (linear != 0), dtype=codes[b.x], scale=bits(scale),
                shift=bits(shift), linear=bits(linear), weight=bits(weight), member=b.member, mean_operand=m,
                mean_operand_n=n[m] if m >= 0 else 1, mean_operand_dtype=codes[m] if m >= 0 else 0,
                last_of_mean=int(m >= 0 and m not in means[number + 1 :]), number_x=b.x, number_y=b.y,
                is_mean_operand_x=int(b.x in means), is_mean_operand_y=int(b.y in means), side=b.side,
                threshold=bits(b.threshold), role=b.role, role_x=spec.roles[b.x],
                role_y=spec.roles[b.y] if b.y >= 0 else 0, number=number,
            ),
        )  # fmt: skip


def _fill_rows(
    spec: LossSpec, n: Sequence[int], codes: Sequence[int]
) -> Iterator[tuple[tuple[int | None, int, int, int], list[int]]]:
    """Yield mean operands that have no term of their own."""
    used = {j for b in spec.terms for j in (b.x, b.y, b.factor, b.label)}
    for j in range(len(spec.roles)):
        if j not in used:
            row = _row(
                n=n[j], phi_code=loss.FILL.value, dtype=codes[j], mean_operand=-1, number_x=j, number_y=-1,
                is_mean_operand_x=1,
            )  # fmt: skip
            yield (None, j, -1, -1), row


def _mean_operand_rows(
    spec: LossSpec, n: Sequence[int], codes: Sequence[int], there: Sequence[bool]
) -> Iterator[tuple[tuple[int | None, int, int, int], list[int]]]:
    """Yield operands whose means are taken."""
    for j in sorted({b.mean_operand for b in spec.terms if b.mean_operand >= 0}):
        yield (None, j, -1, -1), _row(n=n[j], dtype=codes[j], mean_operand=j, number=int(there[j]), number_y=-1)


def _tables(
    rows_of: Iterator[tuple[tuple[int | None, int, int, int], list[int]]], unit: int, most: int
) -> list[Table]:
    """Return tables of up to `most` rows; a program has `unit` elements."""
    found = list(rows_of)
    tables = []
    for begin in range(0, len(found), most):
        bound, constants, phi_codes, programs, partials = [], [], 0, 0, 0
        earlier = {operands[3] for operands, _ in found[:begin]}
        for operands, row in found[begin : begin + most]:
            row[loss.MEAN_OPERAND_X.value] = operands[3] if operands[3] in earlier else -1
            row[loss.FIRST_PROGRAM.value], row[loss.CHUNKS.value] = programs, partials
            n = row[loss.N.value]
            programs += cdiv(n, unit)
            partials += level_space(cdiv(n, CHUNK))
            phi_codes |= 1 << row[loss.PHI_CODE.value]
            bound.append(operands)
            constants += row
        room = min(up(len(bound)), most) if len(found) <= most else most
        for _ in range(room - len(bound)):
            constants += _no_row(programs, partials)
        tables.append(Table(bound, room, (*constants, len(bound)), phi_codes, programs, partials))
    return tables


class LossLaunches:
    """One call of the losses' kernels: what all its launches have in common."""

    def __init__(
        self,
        spec: LossSpec,
        tensors: Operands,
        weights: Weights,
        mean: bool,
        memory: Tensor | None,
        kernels: Triton,
    ) -> None:
        self.spec = spec
        self.tensors = tensors
        self.mean = mean
        self.kernels = kernels
        self.n = [t.numel() for t in tensors]
        self.codes = [CODES[t.dtype] for t in tensors]
        self.dtypes = dtype_bits(tensors)
        self.wide = self.dtypes == 2
        if self.dtypes & 2 and not self.wide:
            raise ValueError("float64 beside another dtype")
        self.weights: tuple[float, ...] = ()
        self.weighted = -1
        self.memory = [0] * loss.MEMORY.value
        if isinstance(weights, Tensor):
            self.weighted = CODES[weights.dtype]
            self.set(weights=address(weights))
        else:
            self.weights = weights
        self.masked = any([b.factor >= 0 or b.label >= 0 for b in spec.terms])
        self.most = most_terms(tensors[0].device.type, self.masked)
        self.operands = up(len(tensors)) if spec.subtracts_mean else 1
        self.paired = any([b.y >= 0 for b in spec.terms])
        self.held: list[Tensor] = []  # until all is launched: what comes later on the stream may have it then
        if memory is not None:
            address(memory)  # which raises where there is none
            buffers = LossBuffers(memory, len(tensors), len(spec.terms))
            self.set(**buffers.addresses())
        self.keep = memory is not None

    def set(self, **entries: int) -> None:
        """Set entries of `memory`."""
        for name, value in entries.items():
            self.memory[getattr(loss, name.upper()).value] = value

    def scratch(self, doubles: int) -> int:
        """Return the address of so many float64 on the operands' device."""
        self.held.append(torch.empty(doubles, dtype=torch.float64, device=self.tensors[0].device))
        return self.held[-1].data_ptr()

    def tables(self, what: str, unit: int, there: tuple[bool, ...] = ()) -> list[Table]:
        """Return the tables of all "terms", of "all" (also mean operands without a term), or of the "means"."""
        weights = tuple([bits(w) for w in self.weights])  # 0.0 and -0.0 are one key, but not one weight
        sizes = (unit, self.most, tuple(self.n), tuple(self.codes))
        key = (what, sizes, weights, self.weighted >= 0, self.mean, there)
        tables = self.kernels.tables_of(self.spec)
        found = tables.get(key)
        if found is None:
            found = tables[key] = self._make(what, unit, there)
        return found

    def _make(self, what: str, unit: int, there: tuple[bool, ...]) -> list[Table]:
        if what == "means":
            return _tables(_mean_operand_rows(self.spec, self.n, self.codes, there), unit, self.most)
        made = list(_term_rows(self.spec, self.n, self.codes, self.weights, self.mean, self.weighted >= 0))
        if what == "all":
            made += _fill_rows(self.spec, self.n, self.codes)
        return _tables(iter(made), unit, self.most)

    def addresses(
        self, table: Table, x: Gradients, g: Gradients, v: Gradients, out: Gradients, up: Gradients, means: bool
    ) -> tuple[int, ...]:
        """Return the addresses of a table's tensors, row by row."""
        found: list[int] = []
        for number, i, j, c in table.bound:
            for list_of in (x, g, v):
                found.append(address(list_of[i]) if list_of else 0)
                found.append(address(list_of[j]) if list_of and j >= 0 else 0)
            if means:
                found.append(address(self.tensors[c]) if c >= 0 else 0)
            else:
                found.append(address(out[number]) if out and number is not None else 0)
            found.append(address(up[number]) if up and number is not None else 0)
        absent = table.room - len(table.bound)
        found += [0] * (absent * loss.ADDRESSES.value)
        if self.masked:
            for number, *_ in table.bound:
                b = None if number is None else self.spec.terms[number]
                own = (-1, -1) if b is None else (b.factor, b.label)
                found += [address(self.tensors[j]) if j >= 0 else 0 for j in own]
            found += [0] * (absent * loss.CONSTANTS_PER_ELEMENT.value)
        return tuple(found)

    def chunks_at_once(self, tables: list[Table]) -> int:
        """Return how many chunks a program has: few where there are few."""
        return 1 if sum([t.partials for t in tables]) < 2048 else 4

    def one(self, tables: list[Table], means: bool) -> int:
        """Return the chunks that a single program takes at a time, or 0 where it would take too long."""
        if len(tables) > 1:
            return 0
        chunks = [cdiv(self.n[i], CHUNK) for _, i, _, _ in tables[0].bound]
        if means:
            chunks += [cdiv(self.n[c], CHUNK) for _, _, _, c in tables[0].bound if c >= 0]
        return up(max(chunks)) if max(chunks) <= ONE_TERM and sum(chunks) <= ONE_CALL else 0

    def sums(
        self, what: int, slopes: bool = False, stats: bool = False, v: Gradients = (), up: Gradients = ()
    ) -> None:
        """Take the sums of a call and finish with them: one launch if one program can do it, else two per table."""
        tables = self.tables("terms", CHUNK)
        subtracts_mean = self.spec.subtracts_mean
        t = self.one(tables, subtracts_mean and what == FORWARD)
        one = t > 0
        if subtracts_mean and what == FORWARD and not one:
            self.means(self.tensors, "means")
        if not one:
            t = self.chunks_at_once(tables)
        tables = self.tables("terms", (ONE_TERM if one else t) * CHUNK)
        slots = SLOTS if stats else 3 if what == SECOND else 2
        if not one:
            most = max([table.partials for table in tables])
            self.set(partial=self.scratch(slots * most), partials=most)
        if len(tables) > 1:
            self.set(carry=self.scratch(13))
        rows_at_once = self.kernels.rows_at_once(slopes or stats or what == SECOND or self.wide)
        for k, table in enumerate(tables):
            addresses = self.addresses(
                table, self.tensors, (), v, (), up, one and subtracts_mean and what == FORWARD
            )
            memory, first, last = tuple(self.memory), k == 0, k == len(tables) - 1
            side_by_side = one and t == 1 and what == FORWARD and self.alike(table)
            shared = (self.weighted, self.mean, first, last, self.operands)
            launch.launch(
                loss.loss_sums,
                1 if one else table.programs,
                (addresses, table.constants, memory),
                (
                    table.room, table.phi_codes, self.dtypes, aligned(addresses), what, self.paired,
                    subtracts_mean, slopes, stats, self.keep, bool(up), *shared, one, t, rows_at_once, self.masked,
                    side_by_side,
                ),
                self.warps(one, t, rows_at_once, table.room if side_by_side else 1),
            )  # fmt: skip
            if not one:
                self._finish(table, memory, what, slopes, stats, shared)

    def alike(self, table: Table) -> bool:
        """Return whether a table's values can be computed side by side: they have one dtype, one phi, no means."""
        several = self.dtypes & (self.dtypes - 1) or table.phi_codes & (table.phi_codes - 1)
        return not (several or self.spec.subtracts_mean or self.masked)

    @staticmethod
    def warps(one: bool, t: int, rows_at_once: int, side_by_side: int) -> int:
        """Return how many warps a program has: one for a chunk, and for up to 4 terms side by side."""
        if one and t == 1:
            return max(1, side_by_side // 4)
        return min(2 * t if one and rows_at_once == 1 else t, 8)

    def _finish(
        self, table: Table, memory: tuple[int, ...], what: int, slopes: bool, stats: bool, shared: tuple[Any, ...]
    ) -> None:
        """Add up a table's sums, level by level of the tree, and make results of them."""
        count = table.room
        begin = 0 if what in (FORWARD, MEAN) else 1 if slopes else 2
        end = SLOTS if stats else 3 if what == SECOND else 2 if slopes else 1
        sums = [cdiv(self.n[i], CHUNK) for _, i, _, _ in table.bound]
        level = 0
        while max(sums) > CHUNK:
            units = sum([cdiv(cdiv(n, CHUNK), 4) for n in sums if n > CHUNK])
            launch.launch(loss.loss_shrink, units, (table.constants, memory), (count, level, begin, end, 4), 4)
            sums = [cdiv(n, CHUNK) if n > CHUNK else n for n in sums]
            level += 1
        launch.launch(
            loss.loss_finish,
            1,
            (table.constants, memory),
            (count, what, self.wide, self.paired, slopes, stats, self.keep, *shared, begin, end),
            4 if count <= 4 else 8,
        )

    def means(self, operands: Gradients, where: str) -> None:
        """Means of the mean operands, or of their cotangents: two launches per table."""
        there = tuple([o is not None for o in operands])
        place = self.memory[loss.MEANS.value if where == "means" else loss.V_MEANS.value]
        t = self.chunks_at_once(self.tables("means", CHUNK, there))
        for table in self.tables("means", t * CHUNK, there):
            self.set(partial=self.scratch(table.partials), partials=table.partials)
            memory = list(self.memory)
            memory[loss.MEANS.value] = place
            shared = (-1, False, True, True, 1)
            if any([there[i] for _, i, _, _ in table.bound]):
                found = [o if o is not None else self.tensors[i] for i, o in enumerate(operands)]
                addresses = self.addresses(table, tuple(found), (), (), (), (), False)
                launch.launch(
                    loss.loss_sums,
                    table.programs,
                    (addresses, table.constants, tuple(memory)),
                    (
                        table.room, 1, self.dtypes, aligned(addresses), MEAN, False, False, False, False, False,
                        False, *shared, False, t, 8, self.masked, False,
                    ),
                    t,
                )  # fmt: skip
            self._finish(table, tuple(memory), MEAN, False, False, shared)

    def elements(self, what: int, g: Gradients, v: Gradients, out: Gradients, up: Gradients) -> None:
        """Compute values or gradients of each element: one launch per table."""
        fills = self.spec.subtracts_mean and what != FORWARD
        block = self.kernels.block
        for table in self.tables("all" if fills else "terms", block):
            addresses = self.addresses(table, self.tensors, g, v, out, up, False)
            launch.launch(
                loss.loss_elements,
                table.programs,
                (addresses, table.constants, tuple(self.memory)),
                (
                    table.room, table.phi_codes, self.dtypes, aligned(addresses), what, self.paired,
                    self.spec.subtracts_mean, bool(up), self.weighted, self.mean, block, self.masked,
                ),
                4,
            )  # fmt: skip
