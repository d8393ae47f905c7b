//! Counts, samples and bounds of small kernels against arithmetic by hand.

use ptx::bound::{Bounds, Resource, bounds};
use ptx::occupancy::{Demand, Occupancy};
use ptx::{Checks, Counts, Launch, Memory, Module, Options, gpu, run};

const HEAD: &str = ".version 8.3\n.target sm_90\n.address_size 64\n";

/// A kernel of `(out, in)`; `%rd1` and `%rd2` are the thread's words in them, `%r0` its number in the grid.
fn module(body: &str) -> Module {
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 out, .param .u64 in)\n{{\n.reg .b64 %rd<9>;\n.reg .b32 %r<9>;\n\
         .reg .f32 %f<9>;\n.reg .pred %p<3>;\n.shared .align 16 .b8 tile[4096];\nld.param.u64 %rd1, [out];\n\
         ld.param.u64 %rd2, [in];\nmov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %ntid.x;\nmov.u32 %r3, %tid.x;\n\
         mad.lo.u32 %r0, %r1, %r2, %r3;\nmad.wide.u32 %rd1, %r0, 4, %rd1;\nmad.wide.u32 %rd2, %r0, 4, %rd2;\n\
         {body}\nret;\n}}\n"
    );
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Runs blocks of 256 threads on two buffers of a word a thread.
fn count(body: &str, blocks: u32, sample: Option<u64>) -> Counts {
    let mut memory = Memory::new(false);
    let bytes = blocks as usize * 256 * 4;
    let [out, input] = [0; 2].map(|_| memory.allocate(bytes).unwrap());
    let params = [out.to_le_bytes(), input.to_le_bytes()].concat();
    let launch = Launch { grid: [blocks, 1, 1], block: [256, 1, 1], dynamic_shared: 0, params: &params };
    let options = Options { checks: Checks::NONE, footprint: true, sample, ..Options::default() };
    run(&module(body), "k", &launch, &mut memory, &options).unwrap()
}

const COPY: &str = "ld.global.f32 %f1, [%rd2];\nst.global.f32 [%rd1], %f1;";

fn seconds(bounds: &Bounds, resource: Resource) -> f64 {
    bounds.limits.iter().find(|limit| limit.resource == resource).map_or(0.0, |limit| limit.seconds)
}

/// Equal to six digits.
fn assert_close(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 1e-6, "{found:e}, expected {expected:e}");
}

#[test]
fn a_copy_is_bound_by_dram() {
    let counts = count(COPY, 1024, None);
    let total = counts.total;
    let warps = 1024 * 8;
    assert_eq!((counts.blocks, counts.counted, total.memory_instructions), (1024, 1024, 2 * warps));
    assert_eq!((total.sectors, total.sectors_least), (8 * warps, 8 * warps));
    assert_eq!((counts.distinct_read, counts.distinct_written), (1 << 20, 1 << 20));
    let h200 = gpu::find("h200").unwrap();
    let occupancy = Occupancy::of(Demand { threads: 256, registers: 16, shared: 4096 }, &h200.limits());
    let bounds = bounds(&counts, h200, Some(&occupancy));
    // 2 MiB at 4.8 TB/s.
    assert_close(seconds(&bounds, Resource::Dram), (2 << 20) as f64 / 4.8e12);
    // One of the 132 multiprocessors gets 8 of the 1024 blocks, each of 16 memory instructions, a clock each
    // on 32 units, and 64 sectors, four a clock.
    assert_close(seconds(&bounds, Resource::LoadStore), 8.0 * 16.0 / 1.98e9);
    assert_close(seconds(&bounds, Resource::L1), 8.0 * 64.0 / 4.0 / 1.98e9);
    assert_eq!(seconds(&bounds, Resource::Fma), 0.0);
    assert_eq!(bounds.binding(), Some(Resource::Dram));
    assert_close(bounds.cold, (2 << 20) as f64 / 4.8e12);
    assert_close(bounds.warm, 8.0 * 16.0 / 1.98e9);
    assert_close(bounds.balance, 1024.0 / (8.0 * 132.0));
    assert_close(bounds.waves.unwrap(), 1024.0 / (8.0 * 132.0));
}

#[test]
fn a_chain_of_fmas_is_bound_by_its_units() {
    let chain = "mov.f32 %f1, 0f3F800000;\nmov.u32 %r4, 0;\nL:\n".to_owned()
        + &"fma.rn.f32 %f1, %f1, %f1, %f1;\n".repeat(100)
        + "add.u32 %r4, %r4, 1;\nsetp.lt.u32 %p1, %r4, 10;\n@%p1 bra L;\nst.global.f32 [%rd1], %f1;";
    let counts = count(&chain, 216, None);
    assert_eq!(counts.total.flops_fma, 216 * 256 * 1000 * 2);
    let a100 = gpu::find("a100-80gb").unwrap();
    let bounds = bounds(&counts, a100, None);
    // Two blocks on each of 108 multiprocessors, 8 warps of 1000 FMAs, 64 lanes a clock at 1.41 GHz.
    let expected = 2.0 * 8.0 * 1000.0 * 32.0 / 64.0 / 1.41e9;
    assert_close(seconds(&bounds, Resource::Fma), expected);
    assert_eq!((bounds.binding(), bounds.balance, bounds.waves), (Some(Resource::Fma), 1.0, None));
    // Four instructions a clock: the 1000, and the store.
    assert_close(seconds(&bounds, Resource::Issue), 2.0 * 8.0 * 1001.0 / 4.0 / 1.41e9);
    // The peak of the data sheet follows.
    let flops = counts.total.flops_fma as f64 / bounds.cold;
    assert!((flops / 19.5e12 - 1.0).abs() < 0.01, "{flops:e}");
}

#[test]
fn products_and_sums_may_become_one() {
    let counts = count("mov.f32 %f1, 0f3F800000;\nmul.f32 %f2, %f1, %f1;\nadd.f32 %f2, %f2, %f1;", 132, None);
    let bounds = bounds(&counts, gpu::find("h200").unwrap(), None);
    assert_close(seconds(&bounds, Resource::Fma), 8.0 * 32.0 / 128.0 / 1.98e9);
}

#[test]
fn a_sample_of_alike_blocks_counts_as_all_do() {
    let body = format!("{COPY}\nbar.sync 0;\nshl.b32 %r4, %r3, 3;\nld.shared.u32 %r5, [%r4];");
    let (all, some) = (count(&body, 1000, None), count(&body, 1000, Some(10)));
    assert_eq!((all.counted, some.counted, some.blocks), (1000, 10, 1000));
    assert_eq!(some.total, all.total);
    assert_eq!(some.categories, all.categories);
    assert_eq!((some.distinct_read, some.distinct_written), (all.distinct_read, all.distinct_written));
    // A stride of two words: two wavefronts instead of one.
    assert_eq!((all.total.wavefronts, all.total.wavefronts_least), (16_000, 8_000));
    assert_eq!(all.total.barriers, 8_000);
}

#[test]
fn the_ends_of_the_grid_stand_for_themselves() {
    // The first block stores once more.
    let body =
        "setp.ne.u32 %p1, %r1, 0;\n@%p1 bra E;\nst.global.u32 [%rd1], %r0;\nE:\nst.global.u32 [%rd1], %r0;";
    let (all, some) = (count(body, 500, None), count(body, 500, Some(12)));
    assert_eq!(all.total.global_stored, 501 * 1024);
    assert_eq!(some.total.global_stored, all.total.global_stored);
}

#[test]
fn memory_that_is_touched_twice_is_there_once() {
    // Each thread reads its word twice, and all read the first word.
    let counts = count("ld.global.f32 %f1, [%rd2];\nld.global.f32 %f1, [%rd2];", 64, None);
    assert_eq!((counts.distinct_read, counts.distinct_written), (64 << 10, 0));
    assert_eq!(counts.total.global_loaded, 2 * (64 << 10));
    let first = "ld.param.u64 %rd3, [in];\nld.global.f32 %f1, [%rd3];";
    assert_eq!(count(first, 64, None).distinct_read, 32);
}

#[test]
fn bytes_in_flight_are_the_most_at_once() {
    // Two copies of 16 bytes a thread, waited for together, and one more by itself.
    let copy = |at: u32| {
        format!(
            "shl.b32 %r4, %r3, 4;\nand.b32 %r4, %r4, 2047;\n\
             cp.async.cg.shared.global [%r4+{at}], [%rd3], 16;\n"
        )
    };
    let body = format!(
        "ld.param.u64 %rd3, [in];\n{}{}cp.async.wait_all;\nbar.sync 0;\n{}cp.async.wait_all;",
        copy(0),
        copy(2048),
        copy(0)
    );
    let counts = count(&body, 4, None);
    assert_eq!(counts.total.async_bytes, 4 * 256 * 48);
    // Of each of the 8 warps the first two, 16 bytes a lane.
    assert_eq!(counts.async_in_flight, 8 * 2 * 32 * 16);
}
