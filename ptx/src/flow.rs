//! Control flow of a kernel: where diverged lanes meet again, which registers live at once, and the rows that
//! they share.
//!
//! A compiler gives each value a register of its own: thousands of rows, megabytes for a block. Registers
//! whose lives do not overlap share a row here, so that a warp's registers stay in the processor's first
//! cache.

use crate::ParseError;
use crate::body::Draft;
use crate::instruction::*;
use crate::lanes::Constants;
use std::collections::HashMap;

/// No place to meet but the end of the kernel.
pub const NOWHERE: u32 = u32::MAX;

pub struct Block {
    pub start: usize,
    pub end: usize,
    pub successors: Vec<usize>,
}

/// Basic blocks; the last one is the (empty) end of the kernel.
fn blocks(drafts: &[Draft]) -> Vec<Block> {
    let target = |draft: &Draft| match draft.run {
        Run::Jump(target) | Run::Branch { target, .. } => Some(target as usize),
        _ => None,
    };
    let ends = |draft: &Draft| target(draft).is_some() || matches!(draft.run, Run::Exit | Run::Trap);
    let mut leader = vec![false; drafts.len() + 1];
    leader[0] = true;
    leader[drafts.len()] = true;
    for (at, draft) in drafts.iter().enumerate() {
        if let Some(target) = target(draft) {
            leader[target] = true;
        }
        if ends(draft) {
            leader[at + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..=drafts.len()).filter(|&at| leader[at]).collect();
    let mut block_of = vec![0; drafts.len() + 1];
    for (block, &start) in starts.iter().enumerate() {
        block_of[start] = block;
    }
    let exit = starts.len() - 1;
    let mut blocks = Vec::new();
    for (block, &start) in starts[..exit].iter().enumerate() {
        let end = starts[block + 1];
        let last = &drafts[end - 1];
        let mut successors = match (&last.run, target(last)) {
            (Run::Jump(_), Some(to)) => vec![block_of[to]],
            (_, Some(to)) => vec![block_of[to], block + 1],
            (Run::Exit | Run::Trap, None) if last.guard.is_none() => vec![exit],
            (Run::Exit | Run::Trap, None) => vec![exit, block + 1],
            _ => vec![block + 1],
        };
        successors.dedup();
        blocks.push(Block { start, end, successors });
    }
    blocks.push(Block { start: drafts.len(), end: drafts.len(), successors: Vec::new() });
    blocks
}

/// The immediate post-dominator of each block: the iteration of Cooper, Harvey and Kennedy on the graph
/// reversed.
fn post_dominators(blocks: &[Block]) -> Vec<Option<usize>> {
    let exit = blocks.len() - 1;
    let mut predecessors = vec![Vec::new(); blocks.len()];
    for (block, Block { successors, .. }) in blocks.iter().enumerate() {
        for &to in successors {
            predecessors[to].push(block);
        }
    }
    // Post-order of the reversed graph from the exit.
    let (mut order, mut state) = (Vec::new(), vec![0usize; blocks.len()]);
    let mut stack = vec![exit];
    state[exit] = 1;
    while let Some(&block) = stack.last() {
        if let Some(&next) = predecessors[block].get(state[block] - 1) {
            state[block] += 1;
            if state[next] == 0 {
                state[next] = 1;
                stack.push(next);
            }
        } else {
            order.push(block);
            stack.pop();
        }
    }
    let mut rank = vec![usize::MAX; blocks.len()];
    for (at, &block) in order.iter().enumerate() {
        rank[block] = at;
    }
    let mut immediate: Vec<Option<usize>> = vec![None; blocks.len()];
    immediate[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for &block in order.iter().rev().filter(|&&block| block != exit) {
            let mut meet: Option<usize> = None;
            for &next in blocks[block].successors.iter().filter(|&&next| immediate[next].is_some()) {
                meet = Some(match meet {
                    None => next,
                    Some(mut a) => {
                        let mut b = next;
                        while a != b {
                            while rank[a] < rank[b] {
                                a = immediate[a].unwrap_or(exit);
                            }
                            while rank[b] < rank[a] {
                                b = immediate[b].unwrap_or(exit);
                            }
                        }
                        a
                    }
                });
            }
            if meet != immediate[block] {
                immediate[block] = meet;
                changed = true;
            }
        }
    }
    immediate[exit] = None;
    immediate
}

/// The first and last position where each virtual register of a class lives.
fn lives(drafts: &[Draft], blocks: &[Block], class: Class, registers: usize) -> Vec<Option<(usize, usize)>> {
    let words = registers.div_ceil(64);
    let mut live_in = vec![0u64; words * blocks.len()];
    let mut live = vec![0u64; words];
    let mut changed = true;
    while changed {
        changed = false;
        for (at, block) in blocks.iter().enumerate().rev() {
            live.fill(0);
            for &next in &block.successors {
                for (word, from) in live.iter_mut().zip(&live_in[next * words..]) {
                    *word |= from;
                }
            }
            for draft in drafts[block.start..block.end].iter().rev() {
                step(draft, class, &mut live);
            }
            let kept = &mut live_in[at * words..][..words];
            if kept != live {
                kept.copy_from_slice(&live);
                changed = true;
            }
        }
    }
    let mut spans: Vec<Option<(usize, usize)>> = vec![None; registers];
    let mut extend = |register: usize, at: usize| {
        let span = spans[register].get_or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
    };
    for (index, block) in blocks.iter().enumerate() {
        let each = |set: &[u64], f: &mut dyn FnMut(usize)| {
            for (word, &bits) in set.iter().enumerate() {
                let mut bits = bits;
                while bits != 0 {
                    f(word * 64 + bits.trailing_zeros() as usize);
                    bits &= bits - 1;
                }
            }
        };
        each(&live_in[index * words..][..words], &mut |register| extend(register, block.start));
        for &next in &block.successors {
            // Live past the last instruction of the block.
            each(&live_in[next * words..][..words], &mut |register| extend(register, block.end));
        }
        for (at, draft) in drafts[block.start..block.end].iter().enumerate() {
            uses(draft, class, &mut |register, _| extend(register, block.start + at));
        }
    }
    spans
}

pub fn uses(draft: &Draft, class: Class, f: &mut dyn FnMut(usize, Use)) {
    for operand in &draft.operands {
        if operand.class == class && !operand.slot.is_constant() {
            f(operand.slot.index(), operand.usage);
        }
    }
    if let Some(guard) = draft.guard
        && class == Class::Predicate
        && !guard.predicate.is_constant()
    {
        f(guard.predicate.index(), Use::Read);
    }
}

/// The live set before an instruction, from that after it. A guarded write leaves some lanes as they were.
fn step(draft: &Draft, class: Class, live: &mut [u64]) {
    if draft.guard.is_none() {
        uses(draft, class, &mut |register, usage| {
            if usage == Use::Write {
                live[register / 64] &= !(1 << (register % 64));
            }
        });
    }
    uses(draft, class, &mut |register, usage| {
        if usage == Use::Read {
            live[register / 64] |= 1 << (register % 64);
        }
    });
}

/// Rows for virtual registers: a linear scan over their lives. Returns the rows used.
fn rows(spans: &[Option<(usize, usize)>]) -> (Vec<u16>, usize) {
    let mut row_of = vec![0; spans.len()];
    let mut order: Vec<usize> = (0..spans.len()).filter(|&register| spans[register].is_some()).collect();
    order.sort_by_key(|&register| spans[register]);
    let mut ends = std::collections::BinaryHeap::new();
    let (mut free, mut used) = (Vec::new(), 0);
    for register in order {
        let Some((start, end)) = spans[register] else { continue };
        // A result may take the row of a source that ends here: sources are read before results are written.
        while let Some(&std::cmp::Reverse((last, row))) = ends.peek() {
            if last > start {
                break;
            }
            ends.pop();
            free.push(row);
        }
        let row = free.pop().unwrap_or_else(|| {
            used += 1;
            used - 1
        });
        row_of[register] = row as u16;
        // A result that nobody reads must not share its row with another result of the same instruction.
        ends.push(std::cmp::Reverse((end.max(start + 1), row)));
    }
    (row_of, used)
}

/// Resolves labels, finds where lanes meet, and gives registers their rows.
pub fn finish(
    mut drafts: Vec<Draft>,
    labels: &HashMap<&str, u32>,
    constants: Constants,
    specials: Vec<(Special, Class, Slot)>,
    registers: [usize; 3],
    local_size: usize,
) -> Result<Code, ParseError> {
    for draft in &mut drafts {
        if let Some(label) = draft.target {
            let line = draft.description.line;
            let &target = labels
                .get(label)
                .ok_or_else(|| ParseError { line, reason: format!("no label `{label}`") })?;
            draft.run = if draft.guard.is_some() {
                Run::Branch { target, reconverge: NOWHERE }
            } else {
                Run::Jump(target)
            };
        }
    }
    let blocks = blocks(&drafts);
    let meets = post_dominators(&blocks);
    let unwritten = crate::unwritten::first(&drafts, &blocks, registers, &specials);
    let end = drafts.len();
    for (block, meet) in blocks.iter().zip(meets) {
        let Some(last) = block.end.checked_sub(1).filter(|_| block.end > block.start) else { continue };
        if let Run::Branch { reconverge, .. } = &mut drafts[last].run {
            let at = meet.map_or(end, |meet| blocks[meet].start);
            *reconverge = if at == end { NOWHERE } else { at as u32 };
        }
    }
    let mut row_of = [const { Vec::new() }; 3];
    let mut used = [0; 3];
    for class in [Class::Word, Class::Double, Class::Predicate] {
        let mut spans = lives(&drafts, &blocks, class, registers[class as usize]);
        for (_, _, slot) in specials.iter().filter(|(_, found, _)| *found == class) {
            // Specials are set before the first instruction.
            if let Some(span) = &mut spans[slot.index()] {
                span.0 = 0;
                span.1 = span.1.max(1);
            }
        }
        (row_of[class as usize], used[class as usize]) = rows(&spans);
    }
    let place = |class: Class, slot: Slot| {
        if slot.is_constant() { slot } else { Slot::register(row_of[class as usize][slot.index()] as usize) }
    };
    let mut code = Code { constants, rows: used, local_size, unwritten, ..Code::default() };
    code.specials =
        specials.iter().map(|&(special, class, slot)| (special, class, place(class, slot))).collect();
    for draft in drafts {
        let mut operands = Operands { arg: draft.arg, ..Operands::default() };
        let mut run = draft.run;
        for operand in &draft.operands {
            let slot = place(operand.class, operand.slot);
            match &mut run {
                Run::Mma(mma) => mma.slots[operand.at - OPERANDS] = slot,
                _ => operands.slots[operand.at] = slot,
            }
        }
        let guard =
            draft.guard.map(|guard| Guard { predicate: place(Class::Predicate, guard.predicate), ..guard });
        code.instructions.push(Instruction { run, operands, guard });
        code.descriptions.push(draft.description);
    }
    // A kernel whose last instruction is no exit ends all the same.
    Ok(code)
}
