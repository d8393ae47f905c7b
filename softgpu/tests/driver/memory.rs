use crate::harness::{LATE, alone, room};

#[test]
fn memory_runs_out_at_the_size_asked_for() {
    alone(&[("SOFTGPU_MEMORY", "1000")], |cuda| {
        cuda.start();
        let info = || {
            let (mut free, mut total) = (0usize, 0usize);
            cuda.ok("cuMemGetInfo_v2", &[&raw mut free as usize, &raw mut total as usize]);
            (free, total)
        };
        let first = cuda.get("cuMemAlloc_v2", &[600]);
        assert_eq!(first % 256, 0);
        assert_eq!(info(), (400, 1000));
        let mut word = 0usize;
        let result = &raw mut word as usize;
        cuda.refuses(2, "cuMemAlloc_v2", &[result, 401]);
        cuda.refuses(2, "cuMemAlloc_v2", &[result, usize::MAX]);
        cuda.refuses(1, "cuMemAlloc_v2", &[result, 0]);
        cuda.refuses(1, "cuMemAlloc_v2", &[0, 1]);
        let second = cuda.get("cuMemAllocAsync", &[400, 0]);
        assert_eq!(info(), (0, 1000));
        cuda.ok("cuMemFree_v2", &[first]);
        cuda.ok("cuMemFreeAsync", &[second, 0]);
        assert_eq!(info(), (1000, 1000));
        cuda.ok("cuMemFree_v2", &[0]);
        cuda.ok("cuMemFreeAsync", &[0, 0]);
    });
}

#[test]
fn blocks_are_freed_once_and_at_their_start() {
    let said = alone(&[], |cuda| {
        cuda.start();
        let block = cuda.get("cuMemAlloc_v2", &[64]);
        cuda.refuses(1, "cuMemFree_v2", &[block + 16]);
        let (mut base, mut size) = (0usize, 0usize);
        let arguments = [&raw mut base as usize, &raw mut size as usize];
        cuda.ok("cuMemGetAddressRange_v2", &[arguments[0], arguments[1], block + 63]);
        assert_eq!((base, size), (block, 64));
        cuda.refuses(500, "cuMemGetAddressRange_v2", &[arguments[0], arguments[1], block + 64]);
        cuda.ok("cuMemFree_v2", &[block]);
        cuda.refuses(1, "cuMemFree_v2", &[block]);
        cuda.refuses(1, "cuMemFreeAsync", &[block, 0]);
    });
    let Some(said) = said else { return };
    assert!(said.contains("is no live block: freed before, or never allocated\n"), "{said}");
    assert!(said.contains(", not at its start\n"), "{said}");
}

#[test]
fn copies_and_fills() {
    alone(&[], |cuda| {
        cuda.start();
        let block = cuda.block(&[1, 2, 3, 4]);
        let other = cuda.block(&[9; 4]);
        cuda.ok("cuMemcpyDtoD_v2", &[other + 4, block, 8]);
        assert_eq!(cuda.values(other), [9, 1, 2, 9]);
        cuda.ok("cuMemsetD8_v2", &[block, 0xff, 4]);
        cuda.ok("cuMemsetD16_v2", &[block + 4, 0x1234, 2]);
        cuda.ok("cuMemsetD32_v2", &[block + 8, 0x12345678, 1]);
        assert_eq!(cuda.values(block), [u32::MAX, 0x12341234, 0x12345678, 4]);
        let stream = cuda.stream();
        cuda.ok("cuMemsetD8Async", &[block, 1, 3, stream]);
        cuda.ok("cuMemsetD16Async", &[block + 4, 7, 1, stream]);
        cuda.ok("cuMemsetD32Async", &[block + 12, 5, 1, stream]);
        cuda.ok("cuMemcpyDtoDAsync_v2", &[other, block, 16, stream]);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(cuda.values(other), [0xff010101, 0x12340007, 0x12345678, 5]);
    });
}

#[test]
fn ranges_are_checked_when_work_is_submitted() {
    let said = alone(&[], |cuda| {
        cuda.start();
        let block = cuda.block(&[1, 2]);
        let mut host = [0u32; 4];
        let host = host.as_mut_ptr() as usize;
        cuda.refuses(1, "cuMemcpyHtoD_v2", &[block, host, 9]);
        cuda.refuses(1, "cuMemcpyHtoDAsync_v2", &[block + 4, host, 5, 0]);
        cuda.refuses(1, "cuMemcpyDtoH_v2", &[host, block + 8, 1]);
        cuda.refuses(1, "cuMemcpyDtoHAsync_v2", &[host, 0x10, 1, 0]);
        cuda.refuses(1, "cuMemcpyDtoD_v2", &[block, host, 4]);
        cuda.refuses(1, "cuMemcpyHtoD_v2", &[block, 0, 4]);
        cuda.refuses(1, "cuMemsetD8Async", &[block, 0, 9, 0]);
        cuda.refuses(1, "cuMemsetD32_v2", &[block + 2, 0, 1]);
        cuda.refuses(1, "cuMemsetD32_v2", &[block, 0, usize::MAX / 2]);
        cuda.ok("cuMemcpyHtoD_v2", &[0, 0, 0]);
        cuda.ok("cuMemsetD8_v2", &[0, 0, 0]);
        assert_eq!(cuda.values(block), [1, 2]);
    });
    let Some(said) = said else { return };
    assert!(
        said.contains("cuMemcpyHtoD_v2: CUDA_ERROR_INVALID_VALUE: 1 bytes past the end of a block of 8"),
        "{said}"
    );
}

#[test]
fn copies_read_and_write_the_host_late() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (block, stream) = (cuda.block(&[0, 0]), cuda.stream());
        let mut host = [1u32, 2];
        cuda.ok("cuMemcpyHtoDAsync_v2", &[block, host.as_ptr() as usize, 8, stream]);
        // A program that changes the source before it waits has lost.
        host[0] = 7;
        let mut back = [5u32, 5];
        cuda.ok("cuMemcpyDtoHAsync_v2", &[back.as_mut_ptr() as usize, block, 8, stream]);
        assert_eq!(std::hint::black_box(&back), &[5, 5]);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(std::hint::black_box(&back), &[7, 2]);
        assert_eq!(std::hint::black_box(host), [7, 2]);
    });
}

#[test]
fn a_free_waits_for_work() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (block, stream) = (cuda.block(&[1]), cuda.stream());
        let mut back = [0u32];
        cuda.ok("cuMemcpyDtoHAsync_v2", &[back.as_mut_ptr() as usize, block, 4, stream]);
        cuda.ok("cuMemFree_v2", &[block]);
        assert_eq!(std::hint::black_box(&back), &[1]);
        cuda.ok("cuStreamSynchronize", &[stream]);
    });
}

#[test]
fn a_free_that_does_not_wait_shows_work_in_flight() {
    let said = alone(&[LATE, ("SOFTGPU_FREE", "at-once")], |cuda| {
        cuda.start();
        let (block, stream) = (cuda.block(&[1]), cuda.stream());
        cuda.ok("cuMemsetD8Async", &[block, 0, 4, stream]);
        cuda.ok("cuMemFree_v2", &[block]);
        cuda.refuses(700, "cuStreamSynchronize", &[stream]);
    });
    let Some(said) = said else { return };
    let line = "softgpu: fault: CUDA_ERROR_ILLEGAL_ADDRESS: a fill of memory that was freed since";
    assert!(said.contains(line), "{said}");
}

#[test]
fn a_free_in_a_stream_comes_after_its_work() {
    alone(&[LATE], |cuda| {
        cuda.start();
        let (block, stream, other) = (cuda.block(&[1]), cuda.stream(), cuda.stream());
        let mut back = [0u32];
        cuda.ok("cuMemcpyDtoHAsync_v2", &[back.as_mut_ptr() as usize, block, 4, stream]);
        cuda.ok("cuMemFreeAsync", &[block, stream]);
        cuda.refuses(1, "cuMemsetD8Async", &[block, 0, 4, stream]);
        cuda.ok("cuStreamSynchronize", &[stream]);
        assert_eq!(std::hint::black_box(&back), &[1]);
        // In another stream, without an event between them, it comes too early.
        let block = cuda.block(&[1]);
        cuda.ok("cuMemsetD8Async", &[block, 0, 4, stream]);
        cuda.ok("cuMemFreeAsync", &[block, other]);
        cuda.ok("cuStreamSynchronize", &[other]);
        cuda.refuses(700, "cuStreamSynchronize", &[stream]);
    });
}

#[test]
fn page_locked_memory() {
    alone(&[], |cuda| {
        cuda.start();
        let host = cuda.get("cuMemHostAlloc", &[4096, 0]);
        let block = cuda.block(&[3]);
        cuda.ok("cuMemcpyDtoH_v2", &[host, block, 4]);
        // SAFETY: the driver gave 4096 bytes.
        assert_eq!(unsafe { *(host as *const u32) }, 3);
        cuda.refuses(1, "cuMemFreeHost", &[host + 1]);
        cuda.ok("cuMemFreeHost", &[host]);
        cuda.refuses(1, "cuMemFreeHost", &[host]);
        cuda.refuses(1, "cuMemHostAlloc", &[room(), 0, 0]);
        let host = cuda.get("cuMemAllocHost_v2", &[1]);
        cuda.ok("cuMemFreeHost", &[host]);
        let pool = cuda.get("cuDeviceGetDefaultMemPool", &[0]);
        cuda.ok("cuMemPoolTrimTo", &[pool, 0]);
    });
}
