//! Runs blocks: one fiber per waiting thread.
//!
//! A worker enters a kernel's trampoline on a fiber; the trampoline runs one thread of the block after the
//! other. When a thread has to wait, it parks its fiber, and a fresh fiber goes on with the threads not yet
//! started. Once every thread has either ended or parked, the worker looks for a complete rendezvous (all
//! threads of the block at one barrier, all lanes of a mask at one warp operation; see
//! [`rendezvous`](super::rendezvous)) and resumes its threads. When none is complete, the kernel diverged:
//! that is an error which names the waiting threads and their lines, never a hang.

use super::Order;
use super::block::{Block, Enter, SLOTS, saddle_get_block, saddle_set_block};
use super::checked::{Arena, check_buffer_ends};
use super::rendezvous::{STATES, State, Wait, release};
use super::switch::{Fiber, Switch, switch};
use crate::device::{Arg, Grid, Kernel};
use crate::error::{Error, Result};
use std::cell::RefCell;
use std::ffi::{c_char, c_int};
use std::ops::Range;
use std::ptr::{null, null_mut};

/// A launch, in common for all its blocks.
#[derive(Clone, Copy)]
pub(super) struct Launch {
    pub kernel: &'static Kernel,
    pub enter: Enter,
    /// Live until the last block has run.
    pub args: *const [Arg],
    pub grid: Grid,
    pub threads: usize,
    /// Bytes of dynamic shared memory.
    pub dynamic: usize,
    pub checked: Option<Order>,
}

thread_local! {
    static WORKER: RefCell<Worker> = const { RefCell::new(Worker::new()) };
}

/// The state that an OS thread keeps between blocks.
struct Worker {
    /// All fibers made so far. Raw, like everything that code on other stacks changes too.
    fibers: Vec<*mut Fiber>,
    /// The first of those that have no thread; the others follow.
    idle: *mut Fiber,
    /// One for each thread of the block; all free between blocks.
    waits: Vec<Wait>,
    arena: Option<Arena>,
    /// The order in which threads run in checked mode.
    order: Vec<u32>,
}

/// Runs the blocks `range` (linear indices, x fastest) of a launch on this OS thread.
pub(super) fn run_blocks(launch: &Launch, range: Range<usize>) -> Result<()> {
    WORKER.with(|worker| match worker.try_borrow_mut() {
        Ok(mut worker) => worker.run(launch, range),
        // Only a launch from inside a kernel could get here.
        Err(_) => Err(Error::Internal { what: "a kernel launched a kernel".into() }),
    })
}

impl Worker {
    const fn new() -> Worker {
        Worker { fibers: Vec::new(), idle: null_mut(), waits: Vec::new(), arena: None, order: Vec::new() }
    }

    fn run(&mut self, launch: &Launch, range: Range<usize>) -> Result<()> {
        let mut arena = match self.arena.take() {
            Some(arena) => arena,
            None => Arena::new()?,
        };
        if self.waits.len() < launch.threads {
            self.waits.resize(launch.threads, Wait::FREE);
        }
        let mut home = Fiber::home();
        let [gx, gy, _] = launch.grid.0.map(|n| n as usize);
        let mut described = Block {
            block_idx: [0; 3],
            grid_dim: launch.grid.0,
            threads: launch.threads as u32,
            thread: 0,
            started: 0,
            shared_size: arena.size() as u32,
            shared_used: 0,
            dynamic_size: launch.dynamic as u32,
            order: null(),
            shared: arena.start(),
            slots: [0; SLOTS],
            slot_ends: [0; SLOTS],
            kernel: launch.kernel.c_name.as_ptr(),
            waits: self.waits.as_mut_ptr(),
            position: 0,
            result: 0,
            overflow: 0,
            enter: launch.enter,
            args: launch.args.cast(),
            running: null_mut(),
            home: &raw mut home,
            idle: self.idle,
        };
        // Kernels change the block unseen by the compiler: from here on it is only touched through this
        // pointer.
        let shared: *mut Block = &raw mut described;
        // SAFETY: `described` outlives every use: fibers are parked or done when this function returns.
        unsafe { saddle_set_block(shared) };
        let outcome = range.into_iter().try_for_each(|index| {
            // SAFETY: no kernel runs between two blocks.
            let block = unsafe { &mut *shared };
            block.block_idx = [(index % gx) as u32, (index / gx % gy) as u32, (index / gx / gy) as u32];
            block.started = 0;
            if block.shared_used > 0 {
                block.shared_used = 0;
                block.slots = [0; SLOTS];
            }
            if let Some(order) = launch.checked {
                arena.poison();
                fill_order(&mut self.order, order, launch.threads, index);
                block.order = self.order.as_ptr();
            }
            let place = block.block_idx;
            let mut outcome = self.run_block(launch, shared);
            if outcome.is_ok() && launch.checked.is_some() {
                // SAFETY: as above, and the arguments live until the last block has run.
                let (block, args) = unsafe { (&*shared, &*launch.args) };
                outcome = arena.check_red_zones(block).and_then(|()| check_buffer_ends(args));
            }
            outcome.map_err(|reason| Error::Kernel {
                kernel: launch.kernel.name.into(),
                block: place,
                reason,
            })
        });
        // SAFETY: no kernel runs on this OS thread any more.
        unsafe {
            self.idle = (*shared).idle;
            saddle_set_block(null_mut());
        }
        if outcome.is_err() {
            self.reset();
        }
        self.arena = Some(arena);
        outcome
    }

    fn run_block(&mut self, launch: &Launch, block: *mut Block) -> Result<(), String> {
        // SAFETY: `block` points to the live block of this OS thread, and only idle or waiting fibers are
        // switched to.
        unsafe {
            // No round yet: a thread that waits comes back here.
            (*block).position = (*block).threads;
            while (*block).started < (*block).threads {
                if (*block).idle.is_null() {
                    (*block).idle = self.new_fiber()?;
                }
                let fiber = (*block).idle;
                (*block).idle = (*fiber).next;
                (*block).running = fiber;
                switch((*block).home, fiber);
                no_overflow(block)?;
            }
            while release(&mut self.waits[..launch.threads])? {
                (*block).position = 0;
                switch((*block).home, next(block));
                no_overflow(block)?;
            }
        }
        Ok(())
    }

    fn new_fiber(&mut self) -> Result<*mut Fiber, String> {
        let fiber = Fiber::new(self.fibers.len(), fiber_main).map_err(|e| e.to_string())?;
        self.fibers.push(Box::into_raw(fiber));
        Ok(self.fibers[self.fibers.len() - 1])
    }

    /// After an error: no thread waits any more, and every fiber is idle.
    fn reset(&mut self) {
        self.waits.fill(Wait::FREE);
        self.idle = null_mut();
        for fiber in &self.fibers {
            // SAFETY: no kernel runs on this OS thread, and kernel frames own nothing that would have to be
            // dropped.
            unsafe {
                (**fiber).restart(fiber_main);
                (**fiber).next = self.idle;
            }
            self.idle = *fiber;
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: every fiber came from a box and is idle.
        self.fibers.iter().for_each(|fiber| unsafe { drop(Box::from_raw(*fiber)) });
    }
}

/// # Safety
/// With the block of this OS thread.
unsafe fn no_overflow(block: *mut Block) -> Result<(), String> {
    // SAFETY: the caller's promise.
    match unsafe { (*block).overflow } {
        0 => Ok(()),
        bytes => Err(format!("a shared array of {bytes} bytes does not fit into the 227 KiB of a block")),
    }
}

/// The body of a fiber: enters a kernel, again and again.
extern "C" fn fiber_main() -> ! {
    loop {
        // SAFETY: a fiber runs only while a block is set, whose arguments match its kernel's parameters.
        unsafe {
            let block = saddle_get_block();
            ((*block).enter)((*block).args);
            // The threads that ran here have ended; all have been started.
            let this = (*block).running;
            (*this).next = (*block).idle;
            (*block).idle = this;
            switch(this, next(block));
        }
    }
}

/// The fiber of the next thread of the round, or, when there is none, the worker; it becomes the one that
/// runs.
///
/// # Safety
/// With the block of this OS thread.
#[inline(always)]
unsafe fn next(block: *mut Block) -> *mut Fiber {
    // SAFETY: `waits` and `order` have an entry a thread; a waiting thread has a fiber.
    unsafe {
        let mut to = (*block).home;
        while (*block).position < (*block).threads {
            let position = (*block).position as usize;
            (*block).position += 1;
            let thread =
                if (*block).order.is_null() { position } else { *(*block).order.add(position) as usize };
            let wait = (*block).waits.add(thread);
            if (*wait).state == State::Released {
                (*wait).state = State::Free;
                (*block).thread = thread as u32;
                (*block).result = (*wait).value;
                to = (*wait).fiber;
                break;
            }
        }
        (*block).running = to;
        to
    }
}

/// The decision of `saddle_wait`: kernels call `saddle_wait` (through the shim) when a thread must
/// wait, it saves the thread's registers, calls this and switches to the fiber that is to run next. `place`
/// is the kind of the wait plus 8 times the source line.
///
/// # Safety
/// Only from `saddle_wait`, on a fiber, with the block of this OS thread.
pub(super) unsafe extern "C" fn saddle_park(
    block: *mut Block,
    place: c_int,
    mask: u32,
    value: u64,
    lane: u32,
    file: *const c_char,
) -> Switch {
    // SAFETY: a block has one wait for each of its threads. The next fiber is a different one: this
    // one's thread has only begun to wait.
    unsafe {
        let from = (*block).running;
        let state = STATES[(place & 7) as usize];
        *(*block).waits.add((*block).thread as usize) =
            Wait { state, mask, lane, line: place >> 3, file, value, fiber: from };
        Switch::new(from, next(block))
    }
}

/// # Safety
/// Only from kernel code that runs on a fiber, with the block of this OS thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn saddle_shared_overflow(block: *mut Block, asked: u32) {
    // SAFETY: the fiber is restarted before it runs again.
    unsafe {
        (*block).overflow = asked;
        switch((*block).running, (*block).home);
    }
}

fn fill_order(order: &mut Vec<u32>, kind: Order, threads: usize, block: usize) {
    order.clear();
    order.extend(0..threads as u32);
    match kind {
        Order::Forward => {}
        Order::Reverse => order.reverse(),
        Order::Shuffled(seed) => {
            // Fisher-Yates over a 64-bit mix of seed, block and position.
            for i in (1..order.len()).rev() {
                let mut bits = seed ^ ((block as u64) << 32) ^ i as u64;
                for _ in 0..2 {
                    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                }
                order.swap(i, (bits >> 20) as usize % (i + 1));
            }
        }
    }
}
