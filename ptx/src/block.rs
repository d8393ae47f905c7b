//! A block: its warps in turn, its barriers and its shared memory.

use crate::counts::Raw;
use crate::fault::{Fault, FaultKind};
use crate::footprint::Footprint;
use crate::instruction::*;
use crate::lanes::{LANES, Registers, Row};
use crate::memory::{Allocation, Buffer, Memory};
use crate::module::{Kernel, Module};
use crate::run::{Launch, Options, Order, Shuffler};
use crate::shadow::{Clocks, LAST_GENERATION, Shadow};
use crate::specials::specials;
use crate::warp::{Failure, Frame, Interpret, Pause, State, Warp};
use std::sync::atomic::Ordering::Relaxed;

/// What all blocks of a launch share.
pub struct Machine<'a> {
    pub module: &'a Module,
    pub kernel: &'a Kernel,
    pub code: &'a Code,
    pub memory: &'a Memory,
    pub launch: &'a Launch<'a>,
    pub options: &'a Options,
    /// The parameters, aligned.
    pub params: Buffer,
    /// Allocations by address: start, end.
    pub spans: Vec<(u64, u64, &'a Allocation)>,
    /// Where the module's variables lie.
    pub variables: u64,
    /// `Warp::run`, compiled for this processor.
    pub interpret: Interpret,
    pub taken_first: bool,
    pub footprint: Option<Footprint>,
    /// Any check that looks at each access.
    pub checking: bool,
}

impl Machine<'_> {
    /// The place in `spans` of the allocation that holds an address.
    pub fn span(&self, at: u64) -> Option<usize> {
        let span = self.spans.partition_point(|&(start, _, _)| start <= at).checked_sub(1)?;
        (at < self.spans[span].1).then_some(span)
    }

    pub fn threads(&self) -> usize {
        self.launch.block.iter().map(|&n| n as usize).product()
    }
}

/// What the warps of a block share.
pub struct Common {
    pub shared: Allocation,
    /// For each word of shared memory, the copies in flight to it.
    pub in_flight: Vec<u8>,
    pub in_flight_bytes: usize,
    /// For each instruction, the place in `Machine::spans` that it used last.
    pub last_spans: Vec<u32>,
    /// Of each warp, the most bytes that its copies had in flight in this block.
    pub most_in_flight: Vec<usize>,
    pub clocks: Clocks,
    pub block_index: u64,
    /// A number of the block for the shadow of shared memory, in which marks of other blocks mean nothing.
    pub generation: u64,
}

impl Common {
    pub fn set_in_flight(&mut self, at: usize, bytes: usize, begins: bool) {
        for count in &mut self.in_flight[at / 4..(at + bytes) / 4] {
            *count = if begins { count.saturating_add(1) } else { count.saturating_sub(1) };
        }
        self.in_flight_bytes =
            if begins { self.in_flight_bytes + bytes } else { self.in_flight_bytes.saturating_sub(bytes) };
    }
}

/// Warps that have come to a barrier.
#[derive(Clone, Default)]
struct Gathering {
    warps: usize,
    threads: u32,
    /// 0 where all threads of the block are expected.
    expected: u32,
    waiting: Vec<(usize, BarrierKind)>,
    known: [u32; 32],
    votes: u32,
}

/// A place to run blocks, one after the other.
pub struct Place<'m, 'a> {
    machine: &'m Machine<'a>,
    warps: Vec<Warp>,
    /// For each warp, the rows of `Code::specials`.
    specials: Vec<Vec<Row<u64>>>,
    common: Common,
    barriers: Vec<Gathering>,
    pub tallies: Vec<Raw>,
    /// Instructions of this block's warps.
    turned: u64,
    most_in_flight: u64,
}

impl<'m, 'a> Place<'m, 'a> {
    pub fn new(machine: &'m Machine<'a>) -> Option<Place<'m, 'a>> {
        let warps = machine.threads().div_ceil(LANES);
        let bytes = dynamic_offset(machine.kernel) + machine.launch.dynamic_shared;
        let uninitialised = machine.options.checks.uninitialised;
        let allocation = |bytes: usize| {
            Some(Allocation {
                buffer: Buffer::new(bytes + 16)?,
                size: bytes,
                written: if uninitialised { Some(Buffer::new((bytes / 64 + 1) * 8)?) } else { None },
                shadow: Shadow::default(),
            })
        };
        let common = Common {
            shared: allocation(bytes)?,
            in_flight: vec![0; bytes.div_ceil(4)],
            in_flight_bytes: 0,
            last_spans: vec![0; machine.code.instructions.len()],
            most_in_flight: vec![0; warps],
            clocks: Clocks::new(warps),
            block_index: 0,
            generation: 0,
        };
        let [words, doubles, predicates] = machine.code.rows;
        let registers = Registers {
            words: vec![Row([0; LANES]); words],
            doubles: vec![Row([0; LANES]); doubles],
            predicates: vec![0; predicates],
        };
        let mut all = Vec::new();
        for index in 0..warps {
            let local = match machine.code.local_size {
                0 => None,
                size => Some(allocation(size * LANES)?),
            };
            all.push(Warp {
                index,
                registers: registers.clone(),
                initial: 0,
                live: 0,
                current: Frame { pc: 0, mask: 0, meet: 0 },
                stack: Vec::new(),
                state: State::Ready,
                local,
                queue: Vec::new(),
                groups: [0; LANES],
            });
        }
        let counted = if machine.options.count { machine.code.instructions.len() } else { 0 };
        let tallies = vec![Raw::default(); counted];
        let barriers = vec![Gathering::default(); 16];
        let specials = (0..warps).map(|warp| specials(machine, bytes, warp)).collect();
        let place =
            Place { machine, warps: all, specials, common, barriers, tallies, turned: 0, most_in_flight: 0 };
        Some(place)
    }

    /// The most bytes of asynchronous copies under way at once, in any block so far.
    /// On a GPU warps run side by side: theirs are added.
    pub fn most_in_flight(&self) -> u64 {
        self.most_in_flight.max(self.common.most_in_flight.iter().sum::<usize>() as u64)
    }

    fn reset(&mut self, block_index: u64) {
        self.most_in_flight = self.most_in_flight();
        let machine = self.machine;
        let threads = machine.threads();
        let common = &mut self.common;
        self.turned = 0;
        common.block_index = block_index;
        common.generation += 1;
        if common.generation > LAST_GENERATION {
            common.generation = 1;
            common.shared.shadow = Shadow::default();
        }
        clear(&common.shared);
        if std::mem::take(&mut common.in_flight_bytes) > 0 {
            common.in_flight.fill(0);
        }
        common.most_in_flight.fill(0);
        common.clocks.reset(self.warps.len());
        self.barriers.fill(Gathering::default());
        for warp in &mut self.warps {
            let lanes = (threads - warp.index * LANES).min(LANES);
            warp.initial = u32::MAX >> (LANES - lanes);
            warp.live = warp.initial;
            warp.current = Frame { pc: 0, mask: warp.initial, meet: crate::flow::NOWHERE };
            warp.stack.clear();
            warp.state = State::Ready;
            warp.queue.clear();
            warp.groups = [0; LANES];
            if let Some(local) = &warp.local {
                clear(local);
            }
        }
        let block = split(block_index, machine.launch.grid);
        for (warp, rows) in self.warps.iter_mut().zip(&self.specials) {
            for (&(special, class, slot), row) in machine.code.specials.iter().zip(rows) {
                let row = match special {
                    Special::Ctaid(axis) => Row([block[axis] as u64; LANES]),
                    _ => *row,
                };
                match class {
                    Class::Double => warp.registers.doubles[slot.index()] = row,
                    _ => {
                        let words = &mut warp.registers.words[slot.index()].0;
                        (0..LANES).for_each(|lane| words[lane] = row.0[lane] as u32);
                    }
                }
            }
        }
    }

    /// Runs one block to its end.
    pub fn run(&mut self, block_index: u64) -> Result<(), Fault> {
        self.reset(block_index);
        let mut order: Vec<usize> = (0..self.warps.len()).collect();
        let quantum = match self.machine.options.order {
            Order::Forward => 1 << 20,
            Order::Reverse => {
                order.reverse();
                1 << 20
            }
            Order::Shuffled(seed) => {
                Shuffler::new(seed ^ block_index).shuffle(&mut order);
                977
            }
        };
        let quantum = quantum.min(self.machine.options.limit as usize).max(1);
        loop {
            let mut progress = false;
            for &index in &order {
                if self.warps[index].state == State::Ready {
                    progress = true;
                    self.turn(index, quantum)?;
                }
            }
            if self.warps.iter().all(|warp| warp.state == State::Done) {
                return Ok(());
            }
            if !progress {
                return Err(self.deadlock());
            }
        }
    }

    fn turn(&mut self, index: usize, quantum: usize) -> Result<(), Fault> {
        let warp = &mut self.warps[index];
        // SAFETY: the form for this processor.
        let pause = unsafe {
            (self.machine.interpret)(warp, self.machine, &mut self.common, &mut self.tallies, quantum)
        };
        let at = warp.current.pc as usize;
        let (pause, ran) = match pause {
            Ok(pause) => pause,
            Err(failure) => return Err(self.fault(index, at, failure)),
        };
        self.turned += ran as u64;
        if self.turned >= self.machine.options.limit && pause != Pause::Done {
            let lane = warp.current.mask.trailing_zeros() as usize & 31;
            return Err(self.fault(index, at, Failure { lane, what: FaultKind::endless(self.turned) }));
        }
        match pause {
            Pause::Quantum => Ok(()),
            Pause::Done => {
                warp.state = State::Done;
                // The others may have waited for this warp only.
                (0..self.barriers.len()).try_for_each(|number| self.release(number))
            }
            Pause::Barrier { number, threads, kind, votes } => {
                let live = warp.live.count_ones();
                warp.state = if kind == BarrierKind::Arrive { State::Ready } else { State::Waiting(number) };
                let gathering = &mut self.barriers[number];
                if gathering.warps > 0 && gathering.expected != threads {
                    let text = format!(
                        "barrier {number} for {threads} threads, where others wait for {}",
                        gathering.expected
                    );
                    let lane = warp.live.trailing_zeros() as usize & 31;
                    let at = warp.current.pc as usize - 1;
                    return Err(self.fault(index, at, Failure { lane, what: FaultKind::Barrier(text) }));
                }
                gathering.expected = threads;
                gathering.warps += 1;
                gathering.threads += live;
                gathering.votes += votes.count_ones();
                self.common.clocks.arrive(index, &mut gathering.known);
                if kind == BarrierKind::Arrive {
                    self.common.clocks.advance(index);
                } else {
                    gathering.waiting.push((index, kind));
                }
                self.release(number)
            }
        }
    }

    /// Lets the warps at a barrier go when all have come.
    fn release(&mut self, number: usize) -> Result<(), Fault> {
        let gathering = &self.barriers[number];
        let running = self.warps.iter().filter(|warp| warp.state != State::Done).count();
        let needed = if gathering.expected == 0 { running } else { gathering.expected as usize / LANES };
        if gathering.warps == 0 || gathering.warps < needed {
            return Ok(());
        }
        let gathering = std::mem::take(&mut self.barriers[number]);
        let missing = self.machine.threads() as u32 - gathering.threads.min(self.machine.threads() as u32);
        if gathering.expected == 0
            && missing > 0
            && self.machine.options.checks.barriers
            && let Some(&(index, _)) = gathering.waiting.first()
        {
            let threads = self.machine.threads();
            let text = format!(
                "barrier reached by {} of the {threads} threads of the block: the others have ended",
                gathering.threads
            );
            let at = self.warps[index].current.pc as usize - 1;
            let lane = self.warps[index].live.trailing_zeros() as usize & 31;
            return Err(self.fault(index, at, Failure { lane, what: FaultKind::Barrier(text) }));
        }
        for &(index, kind) in &gathering.waiting {
            self.common.clocks.leave(index, &gathering.known);
            self.warps[index].state = State::Ready;
            self.warps[index].receive(self.machine.code, kind, gathering.votes, gathering.threads);
        }
        Ok(())
    }

    fn deadlock(&self) -> Fault {
        let places: Vec<String> = self
            .warps
            .iter()
            .filter_map(|warp| match warp.state {
                State::Waiting(number) => {
                    let line = self.machine.code.descriptions[warp.current.pc as usize - 1].source.line;
                    Some(format!("warp {} at barrier {number}, line {line}", warp.index))
                }
                _ => None,
            })
            .collect();
        let first = self.warps.iter().position(|warp| warp.state != State::Done).unwrap_or(0);
        let what = FaultKind::Deadlock(format!("no warp can go on: {}", places.join("; ")));
        let at = self.warps[first].current.pc as usize - 1;
        self.fault(first, at, Failure { lane: self.warps[first].live.trailing_zeros() as usize & 31, what })
    }

    fn fault(&self, warp: usize, at: usize, failure: Failure) -> Fault {
        let machine = self.machine;
        let description = machine.code.descriptions.get(at);
        let source = description.map(|description| description.source).filter(|source| source.line > 0);
        Fault {
            kernel: machine.kernel.name.clone(),
            block: split(self.common.block_index, machine.launch.grid),
            thread: split((warp * LANES + failure.lane) as u64, machine.launch.block),
            source: source.map(|source| {
                let name = machine.module.files.get(source.file as usize).cloned().unwrap_or_default();
                (name, source.line)
            }),
            line: description.map_or(0, |description| description.line),
            what: failure.what,
        }
    }
}

fn clear(allocation: &Allocation) {
    for word in allocation.written.iter().flat_map(|written| written.words()) {
        word.store(0, Relaxed);
    }
}

/// Where dynamic shared memory starts.
pub fn dynamic_offset(kernel: &Kernel) -> usize {
    kernel.static_shared.next_multiple_of(16)
}

/// The coordinates of the n-th thread or block.
pub fn split(n: u64, size: [u32; 3]) -> [u32; 3] {
    let (x, y) = (size[0].max(1) as u64, size[1].max(1) as u64);
    [(n % x) as u32, (n / x % y) as u32, (n / x / y) as u32]
}
