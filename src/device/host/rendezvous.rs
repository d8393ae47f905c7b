//! Rendezvous of threads: barriers of a block, and warp operations among the lanes of a mask.

use super::switch::Fiber;
use std::ffi::{CStr, c_char, c_int};
use std::ptr::{null, null_mut};

const WARP: usize = 32;

/// The rendezvous that a thread waits for.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Wait {
    pub state: State,
    pub mask: u32,
    /// The lane that a shuffle reads from.
    pub lane: u32,
    pub line: c_int,
    pub file: *const c_char,
    /// The thread's operand; after the rendezvous, the result of the operation.
    pub value: u64,
    /// The fiber that goes on with the thread.
    pub fiber: *mut Fiber,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum State {
    /// Runs, has ended, or has not started.
    Free,
    /// Its rendezvous is complete: it goes on in this round.
    Released,
    Block,
    Sync,
    Shuffle,
    Ballot,
    All,
    Any,
}

/// States by the shim's number of the operation that a thread waits in (`SaddleWait`).
pub(super) const STATES: [State; 8] = [
    State::Block,
    State::Sync,
    State::Shuffle,
    State::Ballot,
    State::All,
    State::Any,
    State::Free,
    State::Free,
];

impl Wait {
    pub const FREE: Wait =
        Wait { state: State::Free, mask: 0, lane: 0, line: 0, file: null(), value: 0, fiber: null_mut() };

    fn same_place(&self, other: &Wait) -> bool {
        (self.line, self.file) == (other.line, other.file)
    }

    fn same_rendezvous(&self, other: &Wait) -> bool {
        (self.state, self.mask) == (other.state, other.mask) && self.same_place(other)
    }

    fn place(&self) -> String {
        // SAFETY: `file` is a `__FILE__` literal of the kernel source.
        let file = unsafe { CStr::from_ptr(self.file) }.to_string_lossy();
        format!("{file}:{}", self.line)
    }
}

/// Releases the threads of every complete rendezvous: their state becomes [`State::Released`], their value
/// the result. All threads have started; `waits` has one entry a thread. Returns whether any thread was
/// released: if not, all have ended. The error explains why no waiting thread can go on.
pub(super) fn release(waits: &mut [Wait]) -> Result<bool, String> {
    let first = waits[0];
    if waits.iter().all(|w| w.state == State::Block && w.same_place(&first)) {
        waits.iter_mut().for_each(|w| w.state = State::Released);
        return Ok(true);
    }
    if waits.iter().all(|w| matches!(w.state, State::Free | State::Block)) {
        return incomplete_barrier(waits);
    }
    let mut any = false;
    let mut explanation = None;
    for (warp, lanes) in waits.chunks_mut(WARP).enumerate() {
        let present = u32::MAX >> (WARP - lanes.len());
        let mut rest = bits(lanes, |w| !matches!(w.state, State::Free | State::Block));
        while rest != 0 {
            let first = lanes[rest.trailing_zeros() as usize];
            let arrived = bits(lanes, |w| w.same_rendezvous(&first));
            rest &= !arrived;
            let place = || first.place();
            if arrived & !first.mask != 0 {
                let lane = (arrived & !first.mask).trailing_zeros();
                return Err(format!(
                    "{}: lane {lane} of warp {warp} calls with mask {:#010x}, which does not name it",
                    place(),
                    first.mask
                ));
            }
            if first.mask & !present != 0 {
                let lanes = lanes.len();
                return Err(format!(
                    "{}: mask {:#010x} names lanes that warp {warp} of {lanes} threads does not have",
                    place(),
                    first.mask
                ));
            }
            if arrived == first.mask {
                complete(lanes, first)?;
                any = true;
            } else {
                explanation.get_or_insert_with(|| {
                    format!(
                        "{}: lanes {arrived:#010x} of warp {warp} wait with mask {:#010x}, but lanes \
                         {:#010x} wait elsewhere or ended",
                        place(),
                        first.mask,
                        first.mask & !arrived
                    )
                });
            }
        }
    }
    if any { Ok(true) } else { Err(explanation.unwrap_or_default()) }
}

/// Why the threads that are left, all at barriers, cannot go on; `false` when none is left.
fn incomplete_barrier(waits: &[Wait]) -> Result<bool, String> {
    let mut waiting = waits.iter().enumerate().filter(|(_, w)| w.state == State::Block);
    let Some((thread, first)) = waiting.next() else { return Ok(false) };
    let place = first.place();
    if let Some((other, wait)) = waiting.find(|(_, w)| !w.same_place(first)) {
        return Err(format!(
            "barrier in a branch: thread {thread} waits at {place}, thread {other} at {}",
            wait.place()
        ));
    }
    let (arrived, threads) = (waits.iter().filter(|w| w.state == State::Block).count(), waits.len());
    let missing = waits.iter().position(|w| w.state == State::Free).unwrap_or(threads);
    Err(format!(
        "{arrived} of {threads} threads wait at the barrier {place}, but thread {missing} ended without it"
    ))
}

/// Releases the lanes of a complete rendezvous, each with its result.
fn complete(lanes: &mut [Wait], rendezvous: Wait) -> Result<(), String> {
    let mask = rendezvous.mask;
    let mut values = [0u64; WARP];
    lanes.iter().zip(&mut values).for_each(|(lane, value)| *value = lane.value);
    let ones = mask & values.iter().enumerate().fold(0, |ones, (l, v)| ones | ((*v != 0) as u32) << l);
    for (number, lane) in lanes.iter_mut().enumerate().filter(|(l, _)| mask >> l & 1 == 1) {
        lane.value = match lane.state {
            State::Shuffle if mask >> lane.lane & 1 == 0 => {
                let (place, from) = (lane.place(), lane.lane);
                return Err(format!(
                    "{place}: lane {number} reads from lane {from}, which mask {mask:#010x} does not name"
                ));
            }
            State::Shuffle => values[lane.lane as usize],
            State::Ballot => ones as u64,
            State::All => (ones == mask) as u64,
            State::Any => (ones != 0) as u64,
            State::Free | State::Released | State::Block | State::Sync => 0,
        };
        lane.state = State::Released;
    }
    Ok(())
}

fn bits(lanes: &[Wait], is: impl Fn(&Wait) -> bool) -> u32 {
    lanes.iter().enumerate().fold(0, |bits, (l, w)| bits | (is(w) as u32) << l)
}
