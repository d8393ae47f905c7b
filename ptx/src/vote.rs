//! Votes, matches and reductions over the lanes of a mask, and the lanes that a shuffle reads.

use crate::instruction::{Reduction, Slot, Vote};
use crate::lanes::{Constants, LANES, Registers, lanes};

/// Slots: d, p, a, mask. `arg` 1: the predicate is negated; 2: `a` has 64 bits.
pub fn run(
    registers: &mut Registers,
    constants: &Constants,
    slots: &[Slot],
    arg: u32,
    vote: Vote,
    masks: &[u32; LANES],
    mask: u32,
) {
    let predicate = || {
        let value = registers.predicate(constants, slots[2]);
        if arg & 1 != 0 { !value } else { value }
    };
    let all_lanes = |test: &dyn Fn(u32) -> bool| {
        lanes(mask).filter(|&lane| test(masks[lane])).fold(0, |all, lane| all | 1 << lane)
    };
    let mut words = [0; LANES];
    match vote {
        Vote::Active => {}
        Vote::All => {
            let value = predicate();
            registers.set_predicate(slots[0], all_lanes(&|members| value & members == members), mask);
        }
        Vote::Any => {
            let value = predicate();
            registers.set_predicate(slots[0], all_lanes(&|members| value & members != 0), mask);
        }
        Vote::Uniform => {
            let value = predicate();
            let uniform = all_lanes(&|members| value & members == 0 || value & members == members);
            registers.set_predicate(slots[0], uniform, mask);
        }
        Vote::Ballot => {
            let value = predicate();
            lanes(mask).for_each(|lane| words[lane] = value & masks[lane]);
            registers.set_word(slots[0], &words, mask);
        }
        Vote::Elect => {
            let leader = mask & mask.wrapping_neg();
            registers.set_word(slots[0], &[leader.trailing_zeros(); LANES], mask);
            registers.set_predicate(slots[1], leader, mask);
        }
        Vote::MatchAny | Vote::MatchAll => {
            let value = |lane: usize| match arg & 2 {
                0 => registers.word(constants, slots[2])[lane] as u64,
                _ => registers.double(constants, slots[2])[lane],
            };
            let mut equal = 0;
            for lane in lanes(mask) {
                let same = lanes(masks[lane] & mask).filter(|&other| value(other) == value(lane));
                let same = same.fold(0, |all, lane| all | 1 << lane);
                let complete = same == masks[lane];
                words[lane] = if vote == Vote::MatchAny || complete { same } else { 0 };
                equal |= (complete as u32) << lane;
            }
            registers.set_word(slots[0], &words, mask);
            registers.set_predicate(slots[1], equal, mask);
        }
        Vote::Reduce(reduction) => {
            let row = *registers.word(constants, slots[2]);
            let combine: fn(u32, u32) -> u32 = match reduction {
                Reduction::Add => u32::wrapping_add,
                Reduction::MinU => u32::min,
                Reduction::MaxU => u32::max,
                Reduction::MinS => |a, b| (a as i32).min(b as i32) as u32,
                Reduction::MaxS => |a, b| (a as i32).max(b as i32) as u32,
                Reduction::And => |a, b| a & b,
                Reduction::Or => |a, b| a | b,
                Reduction::Xor => |a, b| a ^ b,
            };
            for lane in lanes(mask) {
                words[lane] = lanes(masks[lane]).map(|other| row[other]).reduce(combine).unwrap_or(0);
            }
            registers.set_word(slots[0], &words, mask);
        }
    }
}

/// The lanes that a shuffle reads, and the mask of those that `source` finds inside their segment; the others
/// read their own. `source` gets the lane, the operand b, the bound and the segment's mask.
#[inline(always)]
pub fn sources(
    b: &[u32; LANES],
    c: &[u32; LANES],
    source: impl Fn(i32, i32, i32, i32) -> (i32, bool),
) -> ([u32; LANES], u32) {
    let (mut sources, mut inside) = ([0; LANES], 0);
    for lane in 0..LANES {
        let (clamp, segment) = (c[lane] as i32 & 31, c[lane] as i32 >> 8 & 31);
        let own = lane as i32;
        let most = (own & segment) | (clamp & !segment);
        let (other, valid) = source(own, b[lane] as i32 & 31, most, segment);
        let all = -(valid as i32);
        sources[lane] = ((own ^ ((own ^ other) & all)) & 31) as u32;
        inside |= (valid as u32) << lane;
    }
    (sources, inside)
}
