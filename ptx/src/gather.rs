//! Lanes that a `.sync` instruction waits for: a diverged warp's lanes may reach it along several paths that
//! meet only after it.

use crate::instruction::{Run, Slot, Vote};
use crate::lanes::{Constants, lanes};
use crate::warp::{Frame, Warp};

impl Run {
    /// The operand with the members of an instruction that waits for them.
    fn members(&self, slots: &[Slot]) -> Option<Slot> {
        match self {
            Run::WarpBarrier => Some(slots[0]),
            Run::Vote(Vote::Active) => None,
            Run::Vote(_) => Some(slots[3]),
            Run::Shuffle(_) => Some(slots[5]),
            _ => None,
        }
    }
}

impl Warp {
    /// True when members of this instruction can still reach it: then they go first, and the lanes here
    /// wait. Lanes that wait here already join those that have arrived.
    ///
    /// Only lanes that meet these ones at the same place are waited for. If the others end there without
    /// having come by, the instruction runs without them, which is its fault.
    pub fn waits_for_members(&mut self, constants: &Constants, run: &Run, slots: &[Slot]) -> bool {
        let Some(members) = run.members(slots) else { return false };
        let Frame { pc, meet, .. } = self.current;
        let members = self.registers.word(constants, members);
        let wanted = lanes(self.current.mask).fold(0, |wanted, lane| wanted | members[lane]) & self.live;
        let joined = self.stack.iter().filter(|frame| (frame.pc, frame.meet) == (pc, meet));
        self.current.mask |= joined.fold(0, |mask, frame| mask | frame.mask) & self.live;
        self.stack.retain(|frame| (frame.pc, frame.meet) != (pc, meet));
        let absent = wanted & !self.current.mask;
        match self.stack.iter_mut().rev().find(|frame| frame.meet == meet && frame.mask & absent != 0) {
            Some(others) => {
                std::mem::swap(others, &mut self.current);
                true
            }
            None => false,
        }
    }
}
