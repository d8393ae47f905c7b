//! A warp: 32 lanes in lockstep, a stack of places where diverged lanes meet again, and the instructions that
//! look across lanes.

use crate::asynchronous::Pending;
use crate::block::{Common, Machine};
use crate::counts::Raw;
use crate::fault::FaultKind;
use crate::flow::NOWHERE;
use crate::for_this_processor;
use crate::instruction::*;
use crate::lanes::{LANES, Registers, lanes, level};
use crate::memory::Allocation;
use crate::vote::sources;

/// Lanes that wait for others: they go on at `pc` until `meet`.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub pc: u32,
    pub mask: u32,
    pub meet: u32,
}

/// What a warp waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Ready,
    /// At a barrier of this number, with the operands of the instruction.
    Waiting(usize),
    Done,
}

/// Why a warp stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pause {
    /// At a barrier: number, expected threads (0: all), kind, the predicate of its lanes.
    Barrier {
        number: usize,
        threads: u32,
        kind: BarrierKind,
        votes: u32,
    },
    Quantum,
    Done,
}

/// A fault of a lane, before the warp adds its place.
#[derive(Debug)]
pub struct Failure {
    pub lane: usize,
    pub what: FaultKind,
}

pub struct Warp {
    pub index: usize,
    pub registers: Registers,
    /// The lanes that exist, and those that have not ended.
    pub initial: u32,
    pub live: u32,
    pub current: Frame,
    pub stack: Vec<Frame>,
    pub state: State,
    pub local: Option<Allocation>,
    pub queue: Vec<Pending>,
    /// The number of groups that each lane has committed.
    pub groups: [u32; LANES],
}

/// `Warp::run`. Unsafe to call on a processor that it was not compiled for.
pub type Interpret =
    unsafe fn(&mut Warp, &Machine, &mut Common, &mut [Raw], usize) -> Result<(Pause, usize), Failure>;

/// The form for this processor, with the inner loops over lanes that it inlines.
pub fn interpret() -> Interpret {
    #[inline(always)]
    fn body(
        warp: &mut Warp,
        machine: &Machine,
        common: &mut Common,
        tallies: &mut [Raw],
        quantum: usize,
    ) -> Result<(Pause, usize), Failure> {
        warp.run(machine, common, tallies, quantum)
    }
    for_this_processor!(
        body(
            warp: &mut Warp, machine: &Machine, common: &mut Common, tallies: &mut [Raw], quantum: usize
        ) -> Result<(Pause, usize), Failure>,
        level()
    )
}

impl Warp {
    fn fail<T>(&self, mask: u32, what: FaultKind) -> Result<T, Failure> {
        Err(Failure { lane: mask.trailing_zeros() as usize & 31, what })
    }

    /// Takes the lanes on top of the stack. False when none are left.
    fn pop(&mut self) -> bool {
        while let Some(frame) = self.stack.pop() {
            let mask = frame.mask & self.live;
            if mask != 0 {
                self.current = Frame { mask, ..frame };
                return true;
            }
        }
        self.state = State::Done;
        false
    }

    /// Splits the lanes: those of `taken` go to `target`, the others on.
    fn diverge(&mut self, taken: u32, target: u32, meet: u32, taken_first: bool) {
        let Frame { pc, mask, meet: outer } = self.current;
        if meet != outer && meet != NOWHERE {
            self.stack.push(Frame { pc: meet, mask, meet: outer });
        }
        let sides =
            [Frame { pc: target, mask: taken, meet }, Frame { pc: pc + 1, mask: mask & !taken, meet }];
        let (first, second) = if taken_first { (sides[0], sides[1]) } else { (sides[1], sides[0]) };
        if second.pc != meet {
            self.stack.push(second);
        }
        self.current = first;
    }

    /// Runs until the warp waits, ends, or has run `quantum` instructions; with their number.
    #[inline(always)]
    fn run(
        &mut self,
        machine: &Machine,
        common: &mut Common,
        tallies: &mut [Raw],
        quantum: usize,
    ) -> Result<(Pause, usize), Failure> {
        let code = machine.code;
        let constants = &code.constants;
        for ran in 1..=quantum {
            while self.current.pc == self.current.meet {
                if !self.pop() {
                    return Ok((Pause::Done, ran));
                }
            }
            let pc = self.current.pc as usize;
            let Some(instruction) = code.instructions.get(pc) else {
                self.live &= !self.current.mask;
                if self.pop() {
                    continue;
                }
                return Ok((Pause::Done, ran));
            };
            let slots = &instruction.operands.slots;
            if self.current.mask != self.live && self.waits_for_members(constants, &instruction.run, slots) {
                continue;
            }
            let active = self.current.mask;
            let mask = match instruction.guard {
                None => active,
                Some(Guard { predicate, negated }) => {
                    let value = self.registers.predicate(constants, predicate);
                    active & if negated { !value } else { value }
                }
            };
            if let Some(raw) = tallies.get_mut(pc) {
                raw.issue(mask);
            }
            if let Run::Lanes(execute) = instruction.run {
                // SAFETY: the decoder chose the form for this processor.
                unsafe { execute(&mut self.registers, constants, &instruction.operands, mask) };
                self.current.pc += 1;
                continue;
            }
            match &instruction.run {
                Run::Jump(target) => {
                    self.current.pc = *target;
                    continue;
                }
                Run::Branch { target, reconverge } => {
                    if mask == active {
                        self.current.pc = *target;
                    } else if mask == 0 {
                        self.current.pc += 1;
                    } else {
                        self.diverge(mask, *target, *reconverge, machine.taken_first);
                    }
                    continue;
                }
                _ if mask == 0 => {}
                Run::Masks(operation) => {
                    let [a, b, c] = [1, 2, 3].map(|at| self.registers.predicate(constants, slots[at]));
                    self.registers.set_predicate(slots[0], operation(a, b, c), mask);
                }
                Run::Memory(access) => {
                    let raw = tallies.get_mut(pc);
                    machine.memory_instruction(common, self, (instruction, access), raw, mask)?;
                }
                Run::Exit => {
                    self.live &= !mask;
                    self.current.mask &= !mask;
                    if self.current.mask == 0 {
                        if self.pop() {
                            continue;
                        }
                        return Ok((Pause::Done, ran));
                    }
                }
                Run::Trap => return self.fail(mask, FaultKind::Trap),
                Run::Barrier(kind) => {
                    let pause = self.arrive(machine, instruction, *kind, mask)?;
                    self.current.pc += 1;
                    return Ok((pause, ran));
                }
                Run::Mma(mma) => {
                    if mask != u32::MAX {
                        let what = FaultKind::Mask("mma not reached by all 32 lanes of the warp".into());
                        return self.fail(mask, what);
                    }
                    mma.run(&mut self.registers, constants);
                }
                _ => self.across_lanes(machine, common, instruction, mask)?,
            }
            self.current.pc += 1;
        }
        Ok((Pause::Quantum, quantum))
    }

    fn arrive(
        &mut self,
        machine: &Machine,
        instruction: &Instruction,
        kind: BarrierKind,
        mask: u32,
    ) -> Result<Pause, Failure> {
        let constants = &machine.code.constants;
        let slots = instruction.operands.slots;
        if mask != self.live {
            let (here, all) = (mask.count_ones(), self.live.count_ones());
            let text = format!("barrier reached by {here} of the {all} running threads of the warp");
            return self.fail(mask, FaultKind::Barrier(text));
        }
        let first = mask.trailing_zeros() as usize & 31;
        let number = self.registers.word(constants, slots[1])[first] as usize;
        let threads = self.registers.word(constants, slots[2])[first];
        if number >= 16 || !threads.is_multiple_of(32) {
            let text = format!(
                "barrier {number} for {threads} threads: barriers are 0 to 15, threads multiples of 32"
            );
            return self.fail(mask, FaultKind::Barrier(text));
        }
        let votes = if matches!(kind, BarrierKind::Sync | BarrierKind::Arrive) {
            0
        } else {
            let value = self.registers.predicate(constants, slots[3]);
            mask & if instruction.operands.arg & 1 != 0 { !value } else { value }
        };
        Ok(Pause::Barrier { number, threads, kind, votes })
    }

    /// Writes the result of `bar.red`, which is the instruction before the current place.
    pub fn receive(&mut self, code: &Code, kind: BarrierKind, votes: u32, threads: u32) {
        let Some(instruction) = code.instructions.get(self.current.pc as usize - 1) else { return };
        let slot = instruction.operands.slots[0];
        match kind {
            BarrierKind::Popc => self.registers.set_word(slot, &[votes; LANES], self.live),
            BarrierKind::And => {
                self.registers.set_predicate(slot, if votes == threads { u32::MAX } else { 0 }, self.live);
            }
            BarrierKind::Or => {
                self.registers.set_predicate(slot, if votes > 0 { u32::MAX } else { 0 }, self.live)
            }
            _ => {}
        }
    }

    /// The members of a `.sync` instruction must all be here, and every lane here must be a member.
    #[inline(always)]
    fn members(&self, machine: &Machine, masks: &[u32; LANES], mask: u32) -> Result<(), Failure> {
        if !machine.options.checks.barriers
            || masks.iter().fold(mask, |all, members| all & members) == u32::MAX
        {
            return Ok(());
        }
        for lane in lanes(mask) {
            let members = masks[lane];
            if members >> lane & 1 == 0 {
                let text = format!("lane {lane} is not in its own mask {members:#010x}");
                return Err(Failure { lane, what: FaultKind::Mask(text) });
            }
            if members & !mask != 0 {
                let absent = (members & !mask).trailing_zeros();
                let why = match absent {
                    n if self.initial >> n & 1 == 0 => "does not exist",
                    n if self.live >> n & 1 == 0 => "has ended",
                    _ => "is not here",
                };
                let text = format!("the mask {members:#010x} names lane {absent}, which {why}");
                return Err(Failure { lane, what: FaultKind::Mask(text) });
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn across_lanes(
        &mut self,
        machine: &Machine,
        common: &mut Common,
        instruction: &Instruction,
        mask: u32,
    ) -> Result<(), Failure> {
        let constants = &machine.code.constants;
        let Operands { slots, arg } = instruction.operands;
        match &instruction.run {
            Run::Nothing => {}
            Run::Compare(comparison) => {
                let mut operands = instruction.operands;
                let third = self.registers.predicate(constants, slots[3]);
                let third = if comparison.negated { !third } else { third };
                operands.slots[0] = slots[4];
                // SAFETY: the decoder chose the form for this processor. The result passes through q's row.
                unsafe { (comparison.execute)(&mut self.registers, constants, &operands, mask) };
                let result = self.registers.predicate(constants, slots[4]);
                self.registers.set_predicate(slots[4], (comparison.combine)(!result, third), mask);
                self.registers.set_predicate(slots[0], (comparison.combine)(result, third), mask);
            }
            Run::AsyncCommit => lanes(mask).for_each(|lane| self.groups[lane] += 1),
            Run::AsyncWait(groups) => self.wait(machine, common, *groups, mask)?,
            Run::WarpBarrier => {
                let masks = *self.registers.word(constants, slots[0]);
                self.members(machine, &masks, mask)?;
                common.clocks.warp_barrier(self.index, mask, mask == self.live);
            }
            Run::Shuffle(kind) => self.shuffle(machine, slots, *kind, mask)?,
            Run::Vote(Vote::Active) => self.registers.set_word(slots[0], &[mask; LANES], mask),
            Run::Vote(vote) => {
                let masks = *self.registers.word(constants, slots[3]);
                self.members(machine, &masks, mask)?;
                crate::vote::run(&mut self.registers, constants, &slots, arg, *vote, &masks, mask);
            }
            _ => {}
        }
        Ok(())
    }

    #[inline(always)]
    fn shuffle(
        &mut self,
        machine: &Machine,
        slots: [Slot; OPERANDS],
        kind: Shuffle,
        mask: u32,
    ) -> Result<(), Failure> {
        let constants = &machine.code.constants;
        let masks = self.registers.word(constants, slots[5]);
        self.members(machine, masks, mask)?;
        let values = *self.registers.word(constants, slots[2]);
        let (b, c) = (self.registers.word(constants, slots[3]), self.registers.word(constants, slots[4]));
        let (sources, inside) = match kind {
            Shuffle::Up => {
                sources(b, c, |lane, distance, most, _| (lane - distance, lane - distance >= most))
            }
            Shuffle::Down => {
                sources(b, c, |lane, distance, most, _| (lane + distance, lane + distance <= most))
            }
            Shuffle::Butterfly => {
                sources(b, c, |lane, distance, most, _| (lane ^ distance, lane ^ distance <= most))
            }
            Shuffle::Index => sources(b, c, |lane, index, most, segment| {
                let source = (lane & segment) | (index & !segment);
                (source, source <= most)
            }),
        };
        if machine.options.checks.barriers && mask != u32::MAX {
            let absent = |&lane: &usize| mask >> sources[lane] & 1 == 0;
            if let Some(lane) = lanes(mask).find(absent) {
                let text = format!("lane {lane} reads lane {}, which does not take part", sources[lane]);
                return Err(Failure { lane, what: FaultKind::Mask(text) });
            }
        }
        let mut result = [0; LANES];
        for lane in 0..LANES {
            result[lane] = values[sources[lane] as usize & 31];
        }
        self.registers.set_word(slots[0], &result, mask);
        self.registers.set_predicate(slots[1], inside, mask);
        Ok(())
    }
}
