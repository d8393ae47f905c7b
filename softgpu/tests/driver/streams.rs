use crate::harness::{Cuda, LATE, alone};
use std::sync::atomic::{AtomicU32, Ordering};

/// Copies a block to the host in a stream, without a wait.
fn read(cuda: &Cuda, into: &mut [u32], block: usize, stream: usize) {
    cuda.ok("cuMemcpyDtoHAsync_v2", &[into.as_mut_ptr() as usize, block, size_of_val(into), stream]);
}

fn fill(cuda: &Cuda, block: usize, value: usize, stream: usize) {
    cuda.ok("cuMemsetD32Async", &[block, value, 1, stream]);
}

#[test]
fn streams_are_checked_handles() {
    let said = alone(&[], |cuda| {
        cuda.start();
        let mut word = 0usize;
        cuda.refuses(1, "cuStreamCreate", &[&raw mut word as usize, 2]);
        let stream = cuda.get("cuStreamCreateWithPriority", &[1, (-99i32) as usize]);
        let mut priority = 0i32;
        cuda.ok("cuStreamGetPriority", &[stream, &raw mut priority as usize]);
        assert_eq!(priority, -5);
        let mut flags = 9u32;
        cuda.ok("cuStreamGetFlags", &[stream, &raw mut flags as usize]);
        assert_eq!(flags, 1);
        cuda.ok("cuStreamGetCtx", &[stream, &raw mut word as usize]);
        assert_eq!(word, cuda.get("cuCtxGetCurrent", &[]));
        cuda.ok("cuStreamQuery", &[stream]);
        cuda.ok("cuStreamDestroy_v2", &[stream]);
        cuda.refuses(400, "cuStreamDestroy_v2", &[stream]);
        cuda.refuses(400, "cuStreamSynchronize", &[stream]);
        // An event's handle is no stream's.
        cuda.refuses(400, "cuStreamSynchronize", &[cuda.event()]);
    });
    let Some(said) = said else { return };
    assert!(
        said.contains("CUDA_ERROR_INVALID_HANDLE: 0x") && said.contains(" is no live stream\n"),
        "{said}"
    );
}

#[test]
fn work_runs_when_somebody_waits() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (block, stream, other) = (cuda.block(&[1]), cuda.stream(), cuda.stream());
        let mut seen = [0u32];
        fill(cuda, block, 2, stream);
        // The wait that is missing: other streams see the old value.
        read(cuda, &mut seen, block, other);
        cuda.ok("cuStreamSynchronize", &[other]);
        assert_eq!(std::hint::black_box(&seen), &[1]);
        cuda.ok("cuStreamSynchronize", &[stream]);
        read(cuda, &mut seen, block, other);
        cuda.ok("cuStreamSynchronize", &[other]);
        assert_eq!(std::hint::black_box(&seen), &[2]);
    });
}

#[test]
fn work_runs_by_itself_in_the_end() {
    alone(&[("SOFTGPU_DELAY", "100")], |cuda| {
        cuda.start();
        let (block, stream) = (cuda.block(&[1]), cuda.stream());
        let mut seen = [0u32];
        read(cuda, &mut seen, block, stream);
        let seen = &raw const seen[0];
        let began = std::time::Instant::now();
        // SAFETY: a word that the copy writes meanwhile.
        while unsafe { seen.read_volatile() } != 1 {
            assert!(began.elapsed().as_secs() < 20);
            std::thread::yield_now();
        }
    });
}

#[test]
fn asking_makes_work_start() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (block, stream, event) = (cuda.block(&[1]), cuda.stream(), cuda.event());
        fill(cuda, block, 2, stream);
        cuda.ok("cuEventRecord", &[event, stream]);
        while cuda.call("cuEventQuery", &[event]) == 600 {}
        cuda.ok("cuEventQuery", &[event]);
        fill(cuda, block, 3, stream);
        while cuda.call("cuStreamQuery", &[stream]) == 600 {}
        assert_eq!(cuda.values(block), [3]);
    });
}

#[test]
fn events_order_streams() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (block, stream, other, event) = (cuda.block(&[1]), cuda.stream(), cuda.stream(), cuda.event());
        cuda.ok("cuStreamWaitEvent", &[other, event, 0]);
        cuda.refuses(1, "cuStreamWaitEvent", &[other, event, 2]);
        cuda.refuses(400, "cuStreamWaitEvent", &[other, stream, 0]);
        fill(cuda, block, 2, stream);
        cuda.ok("cuEventRecord", &[event, stream]);
        fill(cuda, block, 3, stream);
        cuda.ok("cuStreamWaitEvent", &[other, event, 0]);
        let mut seen = [0u32];
        read(cuda, &mut seen, block, other);
        cuda.ok("cuStreamSynchronize", &[other]);
        // The work before the event, and not that after it.
        assert_eq!(std::hint::black_box(&seen), &[2]);
        cuda.ok("cuEventSynchronize", &[event]);
        assert_eq!(cuda.call("cuStreamQuery", &[stream]), 600);
        cuda.ok("cuEventDestroy_v2", &[event]);
        cuda.refuses(400, "cuEventRecord", &[event, stream]);
    });
}

#[test]
fn times_between_events() {
    alone(&[], |cuda| {
        cuda.start();
        let (first, second) = (cuda.event(), cuda.event());
        let untimed = cuda.get("cuEventCreate", &[2]);
        let mut time = -1f32;
        let time_at = &raw mut time as usize;
        cuda.refuses(400, "cuEventElapsedTime", &[time_at, first, second]);
        for event in [first, second, untimed] {
            cuda.ok("cuEventRecord", &[event, 0]);
            cuda.ok("cuEventSynchronize", &[event]);
        }
        cuda.ok("cuEventElapsedTime", &[time_at, first, second]);
        assert!(std::hint::black_box(time) >= 0.0);
        cuda.refuses(400, "cuEventElapsedTime_v2", &[time_at, first, untimed]);
        cuda.refuses(1, "cuEventCreate", &[time_at, 8]);
        cuda.refuses(1, "cuEventCreate", &[time_at, 4]);
        cuda.refuses(801, "cuEventCreate", &[time_at, 6]);
    });
}

#[test]
fn an_event_without_its_work_done_has_no_time() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (first, stream) = (cuda.event(), cuda.stream());
        cuda.ok("cuEventRecord", &[first, stream]);
        let mut time = 0f32;
        cuda.refuses(600, "cuEventElapsedTime", &[&raw mut time as usize, first, first]);
    });
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_only() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (blocking, free) = (cuda.get("cuStreamCreate", &[0]), cuda.stream());
        let (first, second) = (cuda.block(&[1]), cuda.block(&[1]));
        fill(cuda, first, 2, blocking);
        fill(cuda, second, 2, free);
        assert_eq!(cuda.values(first), [2]);
        assert_eq!(cuda.values(second), [1]);
        // And blocking streams wait for it.
        fill(cuda, first, 3, 0);
        let mut seen = [0u32];
        read(cuda, &mut seen, first, blocking);
        cuda.ok("cuStreamSynchronize", &[blocking]);
        assert_eq!(std::hint::black_box(&seen), &[3]);
    });
}

#[test]
fn each_thread_has_a_stream_of_its_own() {
    alone(&[LATE], |cuda| {
        let context = cuda.start();
        let block = cuda.block(&[1]);
        fill(cuda, block, 2, 2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                cuda.ok("cuCtxSetCurrent", &[context]);
                let mut seen = [0u32];
                read(cuda, &mut seen, block, 2);
                cuda.ok("cuStreamSynchronize", &[2]);
                assert_eq!(std::hint::black_box(&seen), &[1]);
            });
        });
        cuda.ok("cuCtxSynchronize", &[]);
        assert_eq!(cuda.values(block), [2]);
    });
}

#[test]
fn a_destroyed_stream_does_its_work() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (block, stream, event) = (cuda.block(&[1]), cuda.stream(), cuda.event());
        fill(cuda, block, 2, stream);
        cuda.ok("cuEventRecord", &[event, stream]);
        cuda.ok("cuStreamDestroy_v2", &[stream]);
        cuda.ok("cuEventSynchronize", &[event]);
        assert_eq!(cuda.values(block), [2]);
    });
}

static CALLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn callback(cuda: &Cuda) {
    let mut count = 0usize;
    CALLED.store(1000 + cuda.call("cuDeviceGetCount", &[&raw mut count as usize]), Ordering::Release);
}

#[test]
fn callbacks_run_in_their_place_and_must_not_call_the_driver() {
    let said = alone(&[LATE], |cuda| {
        cuda.start();
        let stream = cuda.stream();
        cuda.refuses(1, "cuLaunchHostFunc", &[stream, 0, 0]);
        cuda.ok("cuLaunchHostFunc", &[stream, callback as *const () as usize, &raw const *cuda as usize]);
        assert_eq!(CALLED.load(Ordering::Acquire), 0);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(CALLED.load(Ordering::Acquire), 1800);
    });
    let Some(said) = said else { return };
    assert!(
        said.contains("CUDA_ERROR_NOT_PERMITTED: a callback of a stream must not call the driver"),
        "{said}"
    );
}

#[test]
fn a_full_queue_makes_the_program_wait() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (block, stream) = (cuda.block(&[0]), cuda.stream());
        for value in 1..=3000 {
            fill(cuda, block, value, stream);
        }
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(cuda.values(block), [3000]);
    });
}
