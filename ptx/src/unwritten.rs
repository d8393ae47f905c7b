//! Registers that may be read before they are written: definite assignment over the control-flow graph.

use crate::body::Draft;
use crate::flow::{Block, uses};
use crate::instruction::{Class, Slot, Special, Use};

/// The first instruction that reads a register which some path leaves unwritten. A guarded write counts as
/// none, because it leaves some lanes as they were.
pub fn first(
    drafts: &[Draft],
    blocks: &[Block],
    registers: [usize; 3],
    specials: &[(Special, Class, Slot)],
) -> Option<usize> {
    let place = |class: Class, register: usize| match class {
        Class::Word => register,
        Class::Double => registers[0] + register,
        Class::Predicate => registers[0] + registers[1] + register,
    };
    let each = |draft: &Draft, wanted: Use, f: &mut dyn FnMut(usize)| {
        for class in [Class::Word, Class::Double, Class::Predicate] {
            uses(draft, class, &mut |register, usage| {
                if usage == wanted {
                    f(place(class, register));
                }
            });
        }
    };
    let words = registers.iter().sum::<usize>().div_ceil(64);
    let write = |draft: &Draft, written: &mut [u64]| {
        if draft.guard.is_none() {
            each(draft, Use::Write, &mut |at| written[at / 64] |= 1 << (at % 64));
        }
    };
    // What every path to a block has written; of a block that no path reaches, all.
    let mut before = vec![vec![u64::MAX; words]; blocks.len()];
    before[0] = vec![0; words];
    for &(_, class, slot) in specials {
        let at = place(class, slot.index());
        before[0][at / 64] |= 1 << (at % 64);
    }
    let mut changed = true;
    while changed {
        changed = false;
        for (index, block) in blocks.iter().enumerate() {
            let mut written = before[index].clone();
            drafts[block.start..block.end].iter().for_each(|draft| write(draft, &mut written));
            for &next in &block.successors {
                for (word, own) in before[next].iter_mut().zip(&written) {
                    changed |= *word & !own != 0;
                    *word &= own;
                }
            }
        }
    }
    for (block, mut written) in blocks.iter().zip(before) {
        for (at, draft) in drafts.iter().enumerate().take(block.end).skip(block.start) {
            let mut unwritten = false;
            each(draft, Use::Read, &mut |at| unwritten |= written[at / 64] >> (at % 64) & 1 == 0);
            if unwritten {
                return Some(at);
            }
            write(draft, &mut written);
        }
    }
    None
}
