use crate::harness::{Cuda, LATE, alone};

const GLOBAL: usize = 0;
const THREAD_LOCAL: usize = 1;
const RELAXED: usize = 2;

fn begin(cuda: &Cuda, stream: usize, mode: usize) {
    cuda.ok("cuStreamBeginCapture_v2", &[stream, mode]);
}

/// Ends a capture, which must have gone well, and makes its graph ready.
fn executable(cuda: &Cuda, stream: usize) -> usize {
    let mut graph = 0usize;
    cuda.ok("cuStreamEndCapture", &[stream, &raw mut graph as usize]);
    let executable = cuda.get("cuGraphInstantiateWithFlags", &[graph, 1]);
    cuda.ok("cuGraphDestroy", &[graph]);
    executable
}

fn end_refused(cuda: &Cuda, stream: usize, code: u32) {
    let mut graph = 7usize;
    cuda.refuses(code, "cuStreamEndCapture", &[stream, &raw mut graph as usize]);
    assert_eq!(graph, 0);
}

fn status(cuda: &Cuda, stream: usize) -> u32 {
    let mut status = 9u32;
    cuda.ok("cuStreamIsCapturing", &[stream, &raw mut status as usize]);
    status
}

#[test]
fn a_graph_runs_as_often_as_it_is_launched() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (block, stream, function) = (cuda.block(&[1, 1]), cuda.stream(), cuda.function(c"increment"));
        begin(cuda, stream, RELAXED);
        assert_eq!(status(cuda, stream), 1);
        assert_eq!(cuda.increment(function, block, 10, 2, stream), 0);
        assert_eq!(cuda.increment(function, block, 1, 1, stream), 0);
        let graph = executable(cuda, stream);
        assert_eq!(status(cuda, stream), 0);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(cuda.values(block), [1, 1]);
        cuda.ok("cuGraphUpload", &[graph, stream]);
        for _ in 0..3 {
            cuda.ok("cuGraphLaunch", &[graph, stream]);
        }
        // Gone while it still runs.
        cuda.ok("cuGraphExecDestroy", &[graph]);
        cuda.refuses(400, "cuGraphLaunch", &[graph, stream]);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(cuda.values(block), [34, 31]);
    });
}

#[test]
fn an_empty_capture_is_a_graph() {
    alone(&[], |cuda| {
        cuda.start();
        let stream = cuda.stream();
        begin(cuda, stream, GLOBAL);
        let mut graph = 0usize;
        cuda.ok("cuStreamEndCapture", &[stream, &raw mut graph as usize]);
        let mut count = 5usize;
        cuda.ok("cuGraphGetNodes", &[graph, 0, &raw mut count as usize]);
        assert_eq!(count, 0);
        cuda.refuses(1, "cuGraphInstantiateWithFlags", &[&raw mut count as usize, graph, 5]);
        cuda.refuses(1, "cuGraphInstantiateWithFlags", &[&raw mut count as usize, graph, 16]);
        let executable = cuda.get("cuGraphInstantiateWithFlags", &[graph, 0]);
        cuda.ok("cuGraphLaunch", &[executable, stream]);
        cuda.ok("cuGraphDestroy", &[graph]);
        cuda.refuses(400, "cuGraphDestroy", &[graph]);
        cuda.refuses(400, "cuGraphInstantiateWithFlags", &[&raw mut count as usize, graph, 0]);
    });
}

#[test]
fn a_wait_in_a_capture_ends_it() {
    let said = alone(&[], |cuda| {
        cuda.start();
        let (stream, block) = (cuda.stream(), cuda.block(&[1]));
        for wait in ["cuStreamSynchronize", "cuStreamQuery", "cuCtxSynchronize"] {
            begin(cuda, stream, RELAXED);
            cuda.refuses(900, wait, &[stream]);
            assert_eq!(status(cuda, stream), 2, "{wait}");
            cuda.refuses(901, "cuMemsetD8Async", &[block, 0, 4, stream]);
            end_refused(cuda, stream, 901);
            assert_eq!(status(cuda, stream), 0, "{wait}");
        }
        // The stream goes on working.
        cuda.ok("cuMemsetD8Async", &[block, 0, 4, stream]);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(cuda.values(block), [0]);
    });
    let Some(said) = said else { return };
    let line = "cuStreamSynchronize: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: the stream captures";
    assert!(said.contains(line), "{said}");
}

#[test]
fn modes_forbid_unsafe_calls() {
    alone(&[], |cuda| {
        let context = cuda.start();
        let stream = cuda.stream();
        let allocate = || {
            let mut block = 0usize;
            cuda.call("cuMemAlloc_v2", &[&raw mut block as usize, 4])
        };
        let elsewhere = || {
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    cuda.ok("cuCtxSetCurrent", &[context]);
                    allocate()
                });
                thread.join().unwrap()
            })
        };
        for (mode, here, there) in [(GLOBAL, 900, 900), (THREAD_LOCAL, 900, 0), (RELAXED, 0, 0)] {
            begin(cuda, stream, mode);
            assert_eq!(elsewhere(), there, "{mode}");
            assert_eq!(allocate(), here, "{mode}");
            match here {
                0 => drop(executable(cuda, stream)),
                _ => end_refused(cuda, stream, 901),
            }
        }
        // A thread may take the responsibility.
        let mut mode = RELAXED as u32;
        cuda.ok("cuThreadExchangeStreamCaptureMode", &[&raw mut mode as usize]);
        assert_eq!(mode, 0);
        begin(cuda, stream, GLOBAL);
        assert_eq!(allocate(), 0);
        executable(cuda, stream);
        mode = 7;
        cuda.refuses(1, "cuThreadExchangeStreamCaptureMode", &[&raw mut mode as usize]);
    });
}

#[test]
fn captures_begin_and_end_where_they_may() {
    alone(&[], |cuda| {
        let context = cuda.start();
        let (stream, other) = (cuda.stream(), cuda.stream());
        cuda.refuses(900, "cuStreamBeginCapture_v2", &[0, GLOBAL]);
        cuda.refuses(1, "cuStreamBeginCapture_v2", &[stream, 3]);
        end_refused(cuda, stream, 401);
        begin(cuda, stream, GLOBAL);
        cuda.refuses(401, "cuStreamBeginCapture_v2", &[stream, GLOBAL]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                cuda.ok("cuCtxSetCurrent", &[context]);
                end_refused(cuda, stream, 908);
            });
        });
        // The other stream joins through an event, and cannot end the capture.
        let event = cuda.event();
        cuda.ok("cuEventRecord", &[event, stream]);
        cuda.ok("cuStreamWaitEvent", &[other, event, 0]);
        end_refused(cuda, other, 903);
        executable(cuda, stream);
        assert_eq!(status(cuda, other), 0);
        // Relaxed captures may end in any thread.
        begin(cuda, stream, RELAXED);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                cuda.ok("cuCtxSetCurrent", &[context]);
                executable(cuda, stream);
            });
        });
        begin(cuda, stream, RELAXED);
        cuda.ok("cuStreamDestroy_v2", &[stream]);
    });
}

#[test]
fn other_streams_join_through_events() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (stream, other, block) = (cuda.stream(), cuda.stream(), cuda.block(&[1, 1]));
        let (fork, join) = (cuda.event(), cuda.event());
        let capture = |joined: bool| {
            begin(cuda, stream, GLOBAL);
            cuda.ok("cuMemsetD32Async", &[block, 5, 1, stream]);
            cuda.ok("cuEventRecord", &[fork, stream]);
            cuda.ok("cuStreamWaitEvent", &[other, fork, 0]);
            assert_eq!(status(cuda, other), 1);
            cuda.ok("cuMemcpyDtoDAsync_v2", &[block + 4, block, 4, other]);
            if joined {
                cuda.ok("cuEventRecord", &[join, other]);
                cuda.ok("cuStreamWaitEvent", &[stream, join, 0]);
            }
        };
        capture(false);
        end_refused(cuda, stream, 904);
        assert_eq!(status(cuda, other), 0);
        capture(true);
        let graph = executable(cuda, stream);
        cuda.ok("cuGraphLaunch", &[graph, stream]);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(cuda.values(block), [5, 5]);
    });
}

#[test]
fn events_do_not_cross_the_border_of_a_capture() {
    alone(&[], |cuda| {
        cuda.start();
        let (stream, other, event) = (cuda.stream(), cuda.stream(), cuda.event());
        // Recorded outside, waited for inside.
        cuda.ok("cuEventRecord", &[event, other]);
        begin(cuda, stream, GLOBAL);
        cuda.refuses(905, "cuStreamWaitEvent", &[stream, event, 0]);
        end_refused(cuda, stream, 901);
        // Recorded inside, asked about from outside.
        for ask in ["cuEventQuery", "cuEventSynchronize"] {
            begin(cuda, stream, GLOBAL);
            cuda.ok("cuEventRecord", &[event, stream]);
            cuda.refuses(907, ask, &[event]);
            end_refused(cuda, stream, 901);
        }
        // Two captures do not merge.
        begin(cuda, stream, GLOBAL);
        begin(cuda, other, GLOBAL);
        cuda.ok("cuEventRecord", &[event, stream]);
        cuda.refuses(902, "cuStreamWaitEvent", &[other, event, 0]);
        end_refused(cuda, stream, 901);
        end_refused(cuda, other, 901);
    });
}

#[test]
fn the_legacy_stream_stays_out_of_captures() {
    alone(&[], |cuda| {
        cuda.start();
        let (blocking, stream, block) = (cuda.get("cuStreamCreate", &[0]), cuda.stream(), cuda.block(&[1]));
        let event = cuda.event();
        begin(cuda, blocking, RELAXED);
        cuda.refuses(906, "cuMemsetD8Async", &[block, 0, 4, 0]);
        end_refused(cuda, blocking, 901);
        begin(cuda, blocking, RELAXED);
        cuda.refuses(906, "cuMemcpyHtoD_v2", &[block, [0u32].as_ptr() as usize, 4]);
        end_refused(cuda, blocking, 901);
        // A stream that does not block leaves the legacy stream free.
        begin(cuda, stream, RELAXED);
        assert_eq!(cuda.values(block), [1]);
        cuda.ok("cuEventRecord", &[event, stream]);
        cuda.refuses(906, "cuStreamWaitEvent", &[0, event, 0]);
        end_refused(cuda, stream, 901);
    });
}

#[test]
fn allocations_in_a_capture_are_not_modelled() {
    alone(&[], |cuda| {
        cuda.start();
        let (stream, block) = (cuda.stream(), cuda.block(&[1]));
        let mut word = 0usize;
        begin(cuda, stream, RELAXED);
        cuda.refuses(801, "cuMemAllocAsync", &[&raw mut word as usize, 4, stream]);
        end_refused(cuda, stream, 901);
        begin(cuda, stream, RELAXED);
        cuda.refuses(801, "cuMemFreeAsync", &[block, stream]);
        end_refused(cuda, stream, 901);
    });
}

#[test]
fn a_graph_in_a_capture_becomes_a_part_of_it() {
    alone(&[], |cuda| {
        cuda.start();
        let (block, stream, function) = (cuda.block(&[1]), cuda.stream(), cuda.function(c"increment"));
        begin(cuda, stream, RELAXED);
        assert_eq!(cuda.increment(function, block, 1, 1, stream), 0);
        let inner = executable(cuda, stream);
        begin(cuda, stream, RELAXED);
        cuda.ok("cuGraphLaunch", &[inner, stream]);
        cuda.ok("cuGraphLaunch", &[inner, stream]);
        let outer = executable(cuda, stream);
        cuda.ok("cuGraphLaunch", &[outer, stream]);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(cuda.values(block), [3]);
    });
}

#[test]
fn a_graph_whose_kernel_is_unloaded_is_refused() {
    let said = alone(&[], |cuda| {
        cuda.start();
        let (block, stream) = (cuda.block(&[1]), cuda.stream());
        let function = cuda.function(c"increment");
        begin(cuda, stream, RELAXED);
        assert_eq!(cuda.increment(function, block, 1, 1, stream), 0);
        let graph = executable(cuda, stream);
        let module = cuda.get("cuFuncGetModule", &[function]);
        cuda.ok("cuModuleUnload", &[module]);
        cuda.refuses(400, "cuGraphLaunch", &[graph, stream]);
        cuda.refuses(400, "cuModuleUnload", &[module]);
        assert_eq!(cuda.increment(function, block, 1, 1, stream), 400);
    });
    let Some(said) = said else { return };
    assert!(said.contains("the module of the kernel increment was unloaded"), "{said}");
}
