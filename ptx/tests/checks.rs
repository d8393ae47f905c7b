//! Each check against a kernel that must fail, with its message.

use ptx::{Checks, Fault, FaultKind, Launch, Memory, Module, Options, Order, run};

/// A kernel of a body; `%r0` is the thread, `%rd1` the address of `out`, `%rd2` that of the thread's word.
fn module(body: &str) -> Module {
    let text = format!(
        ".version 8.3\n.target sm_90\n.address_size 64\n.file 1 \"bad.cu\"\n\
         .extern .shared .align 16 .b8 dynamic[];\n.visible .entry bad(.param .u64 out)\n{{\n\
         .reg .b64 %rd<20>;\n.reg .b32 %r<20>;\n.reg .f32 %f<20>;\n.reg .pred %p<20>;\n\
         .shared .align 16 .b8 place[512];\n.local .align 16 .b8 own[16];\n\
         ld.param.u64 %rd1, [out];\nmov.u32 %r0, %tid.x;\nmad.wide.u32 %rd2, %r0, 4, %rd1;\n\
         shl.b32 %r1, %r0, 2;\n.loc 1 42 3\n{body}\nret;\n}}\n"
    );
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn attempt(body: &str, grid: u32, block: u32, options: &Options) -> (u64, Result<ptx::Counts, Fault>) {
    let module = module(body);
    let mut memory = Memory::new(true);
    let out = memory.allocate(256).unwrap();
    let params = out.to_le_bytes();
    let launch = Launch { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared: 64, params: &params };
    (out, run(&module, "bad", &launch, &mut memory, options))
}

/// Runs in every order; each must find the fault. The message is that of the first order.
fn fails(body: &str, grid: u32, block: u32, message: &str) {
    for order in [Order::Forward, Order::Reverse, Order::Shuffled(7)] {
        let options = Options { order, ..Options::default() };
        let (out, result) = attempt(body, grid, block, &options);
        let fault = result.map(|_| ()).unwrap_err().to_string();
        if order == Order::Forward {
            assert_eq!(fault, message.replace("OUT", &format!("{out:#x}")), "{body}");
        }
    }
}

fn passes(body: &str, grid: u32, block: u32) {
    for order in [Order::Forward, Order::Reverse, Order::Shuffled(7)] {
        let options = Options { order, ..Options::default() };
        attempt(body, grid, block, &options).1.unwrap_or_else(|fault| panic!("{fault}: {body}"));
    }
}

#[test]
fn accesses_past_the_end_are_found_in_every_space() {
    let fault = |code: &str| {
        let (out, result) = attempt(code, 1, 1, &Options::default());
        (out, result.unwrap_err().to_string())
    };
    let (out, message) = fault("st.global.u32 [%rd1+256], %r0;");
    let expected = format!(
        "bad at bad.cu:42, block (0, 0, 0), thread (0, 0, 0): writes 4 bytes of global memory at {:#x}, 4 bytes \
         past the end of the allocation of 256 bytes at {out:#x}",
        out + 256
    );
    assert_eq!(message, expected);
    let (_, message) = fault("ld.global.u32 %r3, [%rd1+-4];");
    assert!(message.contains("reads 4 bytes of global memory"), "{message}");
}

#[test]
fn each_fault_names_its_place() {
    let at = |thread: u32, text: &str| {
        format!("bad at bad.cu:42, block (0, 0, 0), thread ({thread}, 0, 0): {text}")
    };
    fails(
        "st.shared.u32 [%r1+512], %r0;\nst.shared.u32 [%r1+1020], %r0;",
        1,
        1,
        &at(0, "writes 4 bytes of shared memory at 0x3fc, 448 bytes past the block's 576 bytes"),
    );
    fails(
        "add.u32 %r2, %r1, 448;\nst.shared.u32 [%r2+4], %r0;",
        1,
        64,
        &at(31, "writes 4 bytes of shared memory at 0x240, 4 bytes past the block's 576 bytes"),
    );
    fails(
        "st.local.u32 [own+16], %r0;",
        1,
        1,
        &at(0, "writes 4 bytes of local memory at 0x10, 4 bytes past the thread's 16 bytes"),
    );
    fails(
        "mov.u64 %rd3, 0;\nld.global.u32 %r3, [%rd3];",
        1,
        1,
        &at(0, "reads 4 bytes of global memory at 0x0, a null pointer"),
    );
    fails(
        "ld.param.u32 %r3, [out+8];",
        1,
        1,
        &at(0, "reads 4 bytes of parameter memory at 0x8, 4 bytes past the 8 bytes of parameters"),
    );
    fails(
        "ld.shared.u32 %r3, [place+2];",
        1,
        1,
        &at(0, "reads 4 bytes of shared memory at 0x2, which is no multiple of 4"),
    );
    fails(
        "st.shared.v4.u32 [place+8], {%r0, %r0, %r0, %r0};",
        1,
        1,
        &at(0, "writes 16 bytes of shared memory at 0x8, which is no multiple of 16"),
    );
    fails("trap;", 1, 1, &at(0, "trap"));
}

#[test]
fn reads_of_what_nothing_wrote_are_found() {
    let at = |text: &str| format!("bad at bad.cu:42, block (0, 0, 0), thread (0, 0, 0): {text}");
    fails(
        "ld.global.u32 %r3, [%rd2];",
        1,
        32,
        &at("reads 4 bytes of global memory at OUT, which nothing has written"),
    );
    fails(
        "ld.shared.u32 %r3, [place];",
        1,
        1,
        &at("reads 4 bytes of shared memory at 0x0, which nothing has written"),
    );
    fails(
        "ld.local.u32 %r3, [own];",
        1,
        1,
        &at("reads 4 bytes of local memory at 0x0, which nothing has written"),
    );
    fails(
        "st.shared.u8 [place], %r0;\nld.shared.u32 %r3, [place];",
        1,
        1,
        &at("reads 4 bytes of shared memory at 0x0, which nothing has written"),
    );
    fails(
        "st.shared.u32 [place+8], %r0;\natom.shared.add.u32 %r3, [place], 1;",
        1,
        1,
        &at("reads 4 bytes of shared memory at 0x0, which nothing has written"),
    );
    passes("st.global.u32 [%rd2], %r0;\nld.global.u32 %r3, [%rd2];", 1, 32);
    // Shared memory of the block before counts as not written.
    let options = Options::default();
    let body = "mov.u32 %r2, %ctaid.x;\nsetp.eq.u32 %p1, %r2, 0;\n@%p1 st.shared.u32 [place], %r0;\nld.shared.u32 %r3, [place];";
    assert!(attempt(body, 2, 1, &options).1.unwrap_err().to_string().contains("block (1, 0, 0)"));
}

#[test]
fn races_in_shared_memory_are_found() {
    // Another warp's value without a barrier; with one it is right.
    let body = |barrier: &str| {
        format!(
            "mov.u32 %r4, 63;\nsub.u32 %r4, %r4, %r0;\nshl.b32 %r4, %r4, 2;\nst.shared.u32 [%r1], %r0;\n{barrier}\n\
                 ld.shared.u32 %r3, [%r4];\nst.global.u32 [%rd2], %r3;"
        )
    };
    passes(&body("bar.sync 0;"), 1, 64);
    let options = Options { checks: Checks { uninitialised: false, ..Checks::ALL }, ..Options::default() };
    let fault = attempt(&body(""), 1, 64, &options).1.unwrap_err().to_string();
    assert_eq!(
        fault,
        "bad at bad.cu:42, block (0, 0, 0), thread (32, 0, 0): writes 4 bytes of shared memory at 0x80, \
                       which thread (31, 0, 0) read with no barrier between"
    );
    // Lanes of one warp need a barrier as well, for they need not run in step.
    let warp = |barrier: &str| {
        format!(
            "xor.b32 %r4, %r1, 4;\nst.shared.u32 [%r1], %r0;\n{barrier}\nld.shared.u32 %r3, [%r4];\n\
                 st.global.u32 [%rd2], %r3;"
        )
    };
    passes(&warp("bar.warp.sync -1;"), 1, 32);
    fails(
        &warp(""),
        1,
        32,
        "bad at bad.cu:42, block (0, 0, 0), thread (0, 0, 0): reads 4 bytes of shared memory at 0x4, \
                             which thread (1, 0, 0) wrote with no barrier between",
    );
    // A write after another warp's read.
    let after = |barrier: &str| {
        format!(
            "st.shared.u32 [%r1], %r0;\nbar.sync 0;\nld.shared.u32 %r3, [place];\n{barrier}\n\
                 setp.eq.u32 %p1, %r0, 40;\n@%p1 st.shared.u32 [place], %r0;"
        )
    };
    passes(&after("bar.sync 0;"), 1, 64);
    fails(
        &after(""),
        1,
        64,
        "bad at bad.cu:42, block (0, 0, 0), thread (40, 0, 0): writes 4 bytes of shared memory at 0x0, \
                              which thread (33, 0, 0) read with no barrier between",
    );
    // A barrier of other warps orders nothing here.
    let named = |number: &str| {
        format!(
            "setp.ge.u32 %p1, %r0, 64;\n@%p1 bra LAST;\nst.shared.u32 [%r1], %r0;\nbar.sync 1, 64;\nbra.uni END;\n\
                 LAST:\nbar.sync {number};\nld.shared.u32 %r3, [place];\nEND:\n"
        )
    };
    let options = Options { checks: Checks { uninitialised: false, ..Checks::ALL }, ..Options::default() };
    let fault = attempt(&named("2, 32"), 1, 96, &options).1.unwrap_err().to_string();
    assert!(
        fault.contains(
            "thread (64, 0, 0): reads 4 bytes of shared memory at 0x0, which thread (0, 0, 0) wrote"
        ),
        "{fault}"
    );
    // Bytes of one word belong to threads of their own; atomics do not race with each other.
    passes("st.shared.u8 [%r0], %r0;", 1, 64);
    passes(
        "setp.eq.u32 %p1, %r0, 0;\n@%p1 st.shared.u32 [place], 0;\nbar.sync 0;\nred.shared.add.u32 [place], 1;",
        1,
        64,
    );
}

/// Runs in every order; each must find a race.
fn races(body: &str, grid: u32, block: u32) {
    for order in [Order::Forward, Order::Reverse, Order::Shuffled(7)] {
        let checks = Checks { uninitialised: false, ..Checks::ALL };
        let options = Options { order, checks, ..Options::default() };
        let fault = attempt(body, grid, block, &options).1.map(|_| ()).unwrap_err();
        assert!(matches!(fault.what, FaultKind::Race(..)), "{fault}: {body}");
    }
}

#[test]
fn races_of_accesses_of_every_shape_are_found() {
    // All lanes read one place, or 8 lanes each of 4, and any of them writes it.
    for places in [0, 12] {
        for writer in [0, 1, 4, 31] {
            let body = format!(
                "and.b32 %r4, %r1, {places};\nld.shared.u32 %r3, [%r4];\nsetp.eq.u32 %p1, %r0, {writer};\n\
                 @%p1 st.shared.u32 [%r4], 1;"
            );
            races(&body, 1, 32);
        }
    }
    // Vectors with gaps between them, of another warp, with and without a barrier.
    let gaps = |barrier: &str| {
        format!(
            "and.b32 %r4, %r0, 15;\nshl.b32 %r4, %r4, 5;\nsetp.lt.u32 %p1, %r0, 16;\nsetp.ge.u32 %p2, %r0, 48;\n\
             @%p1 st.shared.v4.u32 [%r4], {{%r0, %r0, %r0, %r0}};\n{barrier}\n\
             @%p2 ld.shared.v4.u32 {{%r5, %r6, %r7, %r8}}, [%r4];"
        )
    };
    passes(&gaps("bar.sync 0;"), 1, 64);
    races(&gaps(""), 1, 64);
    // Bytes and the words that hold them.
    let narrow = |barrier: &str, write: &str, read: &str| {
        format!(
            "setp.lt.u32 %p1, %r0, 32;\nst.shared.u32 [%r1], 0;\nbar.sync 0;\n@%p1 {write};\n{barrier}\n@!%p1 {read};"
        )
    };
    for (write, read) in [
        ("st.shared.u8 [%r0], %r0", "ld.shared.u32 %r3, [place]"),
        ("st.shared.u32 [%r1], %r0", "ld.shared.u8 %r3, [place+5]"),
        ("st.shared.u8 [%r0], %r0", "ld.shared.v2.u8 {%r3, %r4}, [place+6]"),
    ] {
        passes(&narrow("bar.sync 0;", write, read), 1, 64);
        races(&narrow("", write, read), 1, 64);
    }
    // A place that is read, then written by its reader, is its own.
    passes("st.global.u32 [%rd2], 1;\nld.global.u32 %r3, [%rd2];\nst.global.u32 [%rd2], %r3;", 1, 64);
}

#[test]
fn marks_of_earlier_launches_and_blocks_mean_nothing() {
    let right = module("ld.global.u32 %r3, [%rd2];\nst.global.u32 [%rd2], %r3;");
    let wrong = module("st.global.u32 [%rd2], %r0;");
    let mut memory = Memory::new(true);
    let out = memory.allocate(256).unwrap();
    memory.fill(out, 0, 256).unwrap();
    let params = out.to_le_bytes();
    let mut launch = Launch { grid: [1; 3], block: [64, 1, 1], dynamic_shared: 0, params: &params };
    for _ in 0..600 {
        run(&right, "bad", &launch, &mut memory, &Options::default())
            .unwrap_or_else(|fault| panic!("{fault}"));
    }
    launch.grid = [2, 1, 1];
    let fault = run(&wrong, "bad", &launch, &mut memory, &Options::default()).unwrap_err();
    assert!(matches!(fault.what, FaultKind::Race(..)), "{fault}");
    // Each block has shared memory of its own: what the last one read, this one may write.
    passes("st.shared.u32 [%r1], %r0;\nbar.sync 0;\nld.shared.u32 %r3, [place];", 1200, 64);
}

#[test]
fn lanes_that_write_different_values_to_one_place_are_found() {
    passes("st.shared.u32 [place], 7;", 1, 32);
    fails(
        "st.shared.u32 [place], %r0;",
        1,
        2,
        "bad at bad.cu:42, block (0, 0, 0), thread (0, 0, 0): writes 4 bytes of \
           shared memory at 0x0, where another lane writes another value in the same instruction",
    );
}

#[test]
fn races_in_global_memory_are_found_between_blocks() {
    let at =
        |block: u32, text: &str| format!("bad at bad.cu:42, block ({block}, 0, 0), thread (0, 0, 0): {text}");
    fails(
        "st.global.u32 [%rd2], %r0;",
        2,
        32,
        &at(
            1,
            "writes 4 bytes of global memory at OUT, which thread (0, 0, 0) of block (0, 0, 0) wrote in the same launch",
        ),
    );
    let read = "mov.u32 %r2, %ctaid.x;\nsetp.eq.u32 %p1, %r2, 0;\nmad.wide.u32 %rd3, %r2, 4, %rd1;\n\
                st.global.u32 [%rd3], %r0;\nld.global.u32 %r3, [%rd1];";
    fails(
        read,
        2,
        1,
        &at(
            1,
            "reads 4 bytes of global memory at OUT, which thread (0, 0, 0) of block (0, 0, 0) wrote in the same launch",
        ),
    );
    passes("mov.u32 %r2, %ctaid.x;\nmad.wide.u32 %rd3, %r2, 4, %rd1;\nst.global.u32 [%rd3], %r0;", 2, 1);
}

#[test]
fn barriers_that_not_all_threads_reach_are_found() {
    let at = |thread: u32, text: &str| {
        format!("bad at bad.cu:42, block (0, 0, 0), thread ({thread}, 0, 0): {text}")
    };
    fails(
        "setp.ge.u32 %p1, %r0, 40;\n@%p1 exit;\nbar.sync 0;",
        1,
        64,
        &at(0, "barrier reached by 40 of the 64 threads of the block: the others have ended"),
    );
    fails(
        "setp.ge.u32 %p1, %r0, 16;\n@%p1 bra B;\nbar.sync 0;\nbra C;\nB:\nbar.sync 0;\nC:",
        1,
        32,
        &at(16, "barrier reached by 16 of the 32 running threads of the warp"),
    );
    fails("bar.sync 1, 64;", 1, 32, &at(0, "no warp can go on: warp 0 at barrier 1, line 42"));
    fails(
        "bar.sync 1, 50;",
        1,
        32,
        &at(0, "barrier 1 for 50 threads: barriers are 0 to 15, threads multiples of 32"),
    );
    fails(
        "setp.ge.u32 %p1, %r0, 32;\n@%p1 bra B;\nbar.sync 0;\nbra C;\nB:\nbar.sync 1;\nC:",
        1,
        64,
        &at(0, "no warp can go on: warp 0 at barrier 0, line 42; warp 1 at barrier 1, line 42"),
    );
    // The producer arrives, the consumer waits.
    passes(
        "setp.ge.u32 %p1, %r0, 32;\n@%p1 bra B;\nst.shared.u32 [%r1], %r0;\nbar.arrive 1, 64;\nbra C;\n\
            B:\nbar.sync 1, 64;\nld.shared.u32 %r3, [place];\nC:",
        1,
        64,
    );
    passes(
        "setp.lt.u32 %p1, %r0, 40;\nbar.red.popc.u32 %r3, 0, %p1;\nsetp.ne.u32 %p2, %r3, 40;\n@%p2 trap;",
        1,
        64,
    );
}

#[test]
fn copies_that_nobody_waited_for_are_found() {
    let body = |wait: &str| {
        format!(
            "setp.lt.u32 %p1, %r0, 32;\nst.global.u32 [%rd2], %r0;\nbar.sync 0;\n\
                 cp.async.ca.shared.global [%r1], [%rd2], 4;\n{wait}\nld.shared.u32 %r3, [%r1];"
        )
    };
    passes(&body("cp.async.wait_all;"), 1, 32);
    passes(&body("cp.async.commit_group;\ncp.async.wait_group 0;"), 1, 32);
    let message = "bad at bad.cu:42, block (0, 0, 0), thread (0, 0, 0): reads 4 bytes of shared memory at 0x0, which a \
                   cp.async is still filling: a wait for it is missing";
    fails(&body(""), 1, 32, message);
    fails(&body("cp.async.wait_group 0;"), 1, 32, message);
    fails(&body("cp.async.commit_group;\ncp.async.wait_group 1;"), 1, 32, message);
    // The wait is each thread's own: the others need a barrier after it.
    let other = |barrier: &str| body(&format!("cp.async.wait_all;\n{barrier}\nxor.b32 %r1, %r1, 4;"));
    passes(&other("bar.sync 0;"), 1, 32);
    fails(
        &other(""),
        1,
        32,
        "bad at bad.cu:42, block (0, 0, 0), thread (0, 0, 0): reads 4 bytes of shared memory at 0x4, \
                              which thread (1, 0, 0) wrote with no barrier between",
    );
}

#[test]
fn masks_that_name_the_wrong_lanes_are_found() {
    let at = |thread: u32, text: &str| {
        format!("bad at bad.cu:42, block (0, 0, 0), thread ({thread}, 0, 0): {text}")
    };
    fails(
        "shfl.sync.bfly.b32 %r3, %r0, 1, 31, 0xffff;",
        1,
        32,
        &at(16, "lane 16 is not in its own mask 0x0000ffff"),
    );
    fails(
        "setp.eq.u32 %p1, %r0, 31;\n@%p1 exit;\nvote.sync.ballot.b32 %r3, %p1, -1;",
        1,
        32,
        &at(0, "the mask 0xffffffff names lane 31, which has ended"),
    );
    fails(
        "setp.eq.u32 %p1, %r0, 0;\nvote.sync.any.pred %p2, %p1, -1;",
        1,
        8,
        &at(0, "the mask 0xffffffff names lane 8, which does not exist"),
    );
    fails(
        "setp.ge.u32 %p1, %r0, 8;\n@%p1 bra E;\nmov.u32 %r4, 9;\nshfl.sync.idx.b32 %r3, %r0, %r4, 31, 0xff;\nE:",
        1,
        32,
        &at(0, "lane 0 reads lane 9, which does not take part"),
    );
    fails(
        "setp.eq.u32 %p1, %r0, 0;\n@%p1 bra E;\nbar.warp.sync -1;\nE:",
        1,
        32,
        &at(1, "the mask 0xffffffff names lane 0, which is not here"),
    );
    fails(
        "setp.eq.u32 %p1, %r0, 0;\n@%p1 bra E;\nldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r3}, [place];\nE:",
        1,
        32,
        &at(1, "ldmatrix or stmatrix not reached by all 32 lanes of the warp"),
    );
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let (_, result) = attempt("", 1, 1025, &Options::default());
    assert!(result.unwrap_err().to_string().starts_with("bad: a block of [1025, 1, 1] threads"));
    let module = module("");
    let launch = Launch { grid: [1; 3], block: [1; 3], dynamic_shared: 0, params: &[] };
    let mut memory = Memory::new(true);
    let fault = run(&module, "bad", &launch, &mut memory, &Options::default()).unwrap_err();
    assert_eq!(fault.to_string(), "bad: 0 bytes of parameters instead of 8");
    let fault = run(&module, "good", &launch, &mut memory, &Options::default()).unwrap_err();
    assert_eq!(fault.to_string(), "good: no such kernel in the module");
}

#[test]
fn host_accesses_are_checked() {
    let mut memory = Memory::new(true);
    let at = memory.allocate(16).unwrap();
    assert!(memory.write(at, &[1; 16]).is_ok());
    let message = memory.write(at, &[1; 17]).unwrap_err().to_string();
    assert!(message.contains("1 bytes past the end of the allocation of 16 bytes"), "{message}");
    assert!(memory.free(at));
    assert!(!memory.free(at));
    assert!(memory.read(at, &mut [0; 1]).is_err());
}

#[test]
fn counts_of_sectors_and_wavefronts_follow_the_addresses() {
    let count = |body: &str| {
        attempt(body, 1, 32, &Options { checks: Checks::NONE, ..Options::default() }).1.unwrap().total
    };
    let t = count("st.global.u32 [%rd2], %r0;");
    assert_eq!((t.sectors, t.sectors_least, t.global_stored), (4, 4, 128));
    let t = count("mad.wide.u32 %rd3, %r0, 8, %rd1;\nst.global.u32 [%rd3], %r0;");
    assert_eq!((t.sectors, t.sectors_least), (8, 4));
    let t = count("ld.global.u32 %r3, [%rd1];");
    assert_eq!((t.sectors, t.sectors_least, t.global_loaded), (1, 1, 128));
    let t = count("st.shared.u32 [%r1], %r0;");
    assert_eq!((t.wavefronts, t.wavefronts_least, t.shared_bytes), (1, 1, 128));
    let t = count("and.b32 %r1, %r0, 3;\nshl.b32 %r1, %r1, 7;\nld.shared.u32 %r3, [%r1];");
    assert_eq!((t.wavefronts, t.wavefronts_least), (4, 1));
    let wide = |address: &str| {
        let t = count(&format!(
            "{address}\nshl.b32 %r2, %r2, 4;\nld.shared.v4.u32 {{%r3, %r4, %r5, %r6}}, [%r2];"
        ));
        (t.wavefronts, t.wavefronts_least, t.wavefronts_merged)
    };
    // All lanes one address: a quarter of the warp at a time by the model, at once if quarters merge.
    assert_eq!(wide("mov.u32 %r2, 0;"), (4, 4, 1));
    // Neighbours: the 512 bytes need four. Every other 16 bytes: each quarter meets each bank twice.
    assert_eq!(wide("mov.u32 %r2, %r0;"), (4, 4, 4));
    assert_eq!(wide("and.b32 %r2, %r0, 15;\nshl.b32 %r2, %r2, 1;"), (8, 4, 4));
    // Four lanes each: 16 bytes at eight places in all banks.
    assert_eq!(wide("and.b32 %r2, %r0, 7;"), (4, 4, 1));
    let t = count(
        "mov.f32 %f1, 0f00000000;\nfma.rn.f32 %f1, %f1, %f1, %f1;\nadd.f32 %f1, %f1, %f1;\nbar.sync 0;",
    );
    assert_eq!((t.flops_fma, t.flops_float, t.barriers), (64, 32, 1));
}

#[test]
fn a_wait_can_be_taken_out() {
    let module = module(
        "ld.global.u32 %r3, [%rd2];\nst.shared.u32 [%r1], %r3;\nbar.sync 0;\nxor.b32 %r2, %r1, 128;\n\
         ld.shared.u32 %r3, [%r2];\nbar.warp.sync -1;\ncp.async.wait_all;\nbarrier.sync 0;\n\
         st.global.u32 [%rd2], %r3;",
    );
    let attempt = |module: &Module| {
        let mut memory = Memory::new(false);
        let params = memory.allocate(256).unwrap().to_le_bytes();
        let launch = Launch { grid: [1; 3], block: [64, 1, 1], dynamic_shared: 0, params: &params };
        run(module, "bad", &launch, &mut memory, &Options::default()).map_err(|fault| fault.to_string())
    };
    let without = |nth| module.clone().without_wait("bad", nth);
    assert!(attempt(&module).is_ok());
    let fault = attempt(&without(1).unwrap()).unwrap_err();
    assert!(fault.contains("shared memory"), "{fault}");
    for nth in 2..=4 {
        let counts = attempt(&without(nth).unwrap()).unwrap();
        assert_eq!(counts.instructions.len(), module.kernel("bad").unwrap().instructions());
    }
    let wrong = |result: Result<Module, String>| result.map(|_| ()).unwrap_err();
    assert_eq!(wrong(without(5)), "bad has 4 instructions that wait, there is no number 5");
    assert_eq!(wrong(without(0)), "bad has 4 instructions that wait, there is no number 0");
    assert_eq!(wrong(module.clone().without_wait("good", 1)), "no kernel good");
}

#[test]
fn loops_without_an_end_are_found() {
    // Lane 1 waits for lane 0 of its own warp, which waits for it where the branch ends.
    let body = "st.volatile.shared.u32 [place], 0;\nbar.warp.sync -1;\nsetp.ne.u32 %p1, %r0, 1;\n@%p1 bra OUT;\n\
                SPIN:\nld.volatile.shared.u32 %r3, [place];\nsetp.eq.u32 %p2, %r3, 0;\n@%p2 bra SPIN;\nOUT:\n\
                bar.warp.sync -1;\nst.volatile.shared.u32 [place], 1;";
    let options = Options { limit: 5_000_000, checks: Checks::NONE, ..Options::default() };
    let fault = attempt(body, 1, 32, &options).1.unwrap_err().to_string();
    let message = "bad at bad.cu:42, block (0, 0, 0), thread (1, 0, 0): no end after 5242880 instructions of the block's \
                   warps: a loop that waits for another lane of its warp, or for another block, never ends here";
    assert_eq!(fault, message);
    let spin = "HERE:\nbar.sync 0;\nbra HERE;";
    let options = Options { limit: 1000, checks: Checks::NONE, ..Options::default() };
    let fault = attempt(spin, 1, 64, &options).1.unwrap_err().to_string();
    assert!(fault.contains("no end after 1000 instructions"), "{fault}");
}

#[test]
fn registers_that_a_path_leaves_unwritten_are_found() {
    let message = "bad at bad.cu:42, block (0, 0, 0), thread (0, 0, 0): reads a register that may not have been \
                   written";
    fails("add.u32 %r3, %r4, 1;", 1, 32, message);
    // Thread 0 goes past the only write.
    let branch = "setp.eq.u32 %p1, %r0, 0;\n@%p1 bra E;\nmov.u32 %r4, 9;\nE:\nst.global.u32 [%rd2], %r4;";
    fails(branch, 1, 32, message);
    // A guarded write leaves lanes without a value.
    fails("setp.eq.u32 %p1, %r0, 0;\n@%p1 mov.u32 %r4, 9;\nst.global.u32 [%rd2], %r4;", 1, 32, message);
    fails("@%p3 st.global.u32 [%rd2], %r0;", 1, 32, message);
    passes(
        "mov.u32 %r4, 8;\nsetp.eq.u32 %p1, %r0, 0;\n@%p1 mov.u32 %r4, 9;\nst.global.u32 [%rd2], %r4;",
        1,
        32,
    );
    // Written on both sides; and in a loop before its second turn reads it.
    let both = "setp.eq.u32 %p1, %r0, 0;\n@%p1 bra A;\nmov.u32 %r4, 9;\nbra E;\nA:\nmov.u32 %r4, 8;\nE:\n\
                st.global.u32 [%rd2], %r4;";
    passes(both, 1, 32);
    let round = "mov.u32 %r5, 0;\nA:\nmov.u32 %r4, %r5;\nadd.u32 %r5, %r4, 1;\nsetp.lt.u32 %p1, %r5, 3;\n\
                 @%p1 bra A;\nst.global.u32 [%rd2], %r4;";
    passes(round, 1, 32);
    let unchecked = Options { checks: Checks::NONE, ..Options::default() };
    attempt("add.u32 %r3, %r4, 1;", 1, 32, &unchecked).1.unwrap();
}

#[test]
fn lanes_wait_for_the_members_of_a_shuffle_on_other_paths() {
    // Lanes from 16 on come to the shuffle by a detour from which a path leads past it, so that all paths
    // meet only after it.
    let paths = "mov.u32 %r4, 1;\nsetp.lt.u32 %p1, %r0, 16;\n@%p1 bra HERE;\nmov.u32 %r4, 2;\n\
                setp.gt.u32 %p2, %r0, LAST;\n@%p2 bra OUT;\nHERE:\n\
                shfl.sync.bfly.b32 %r3, %r4, 16, 31, -1;\nst.global.u32 [%rd2], %r3;\nOUT:\nret;";
    for order in [Order::Forward, Order::Reverse, Order::Shuffled(7)] {
        let mut memory = Memory::new(true);
        let out = memory.allocate(256).unwrap();
        let params = out.to_le_bytes();
        let launch = Launch { grid: [1; 3], block: [32, 1, 1], dynamic_shared: 64, params: &params };
        let options = Options { order, ..Options::default() };
        let counts =
            run(&module(&paths.replace("LAST", "99")), "bad", &launch, &mut memory, &options).unwrap();
        let mut got = [0; 128];
        memory.read(out, &mut got).unwrap();
        let got: Vec<u32> = got.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(got, [[2; 16], [1; 16]].concat());
        let shuffles = counts.instructions.iter().filter(|count| count.opcode.starts_with("shfl"));
        assert_eq!(shuffles.map(|count| (count.warps, count.lanes)).collect::<Vec<_>>(), [(1, 32)]);
    }
    let message =
        "bad at bad.cu:42, block (0, 0, 0), thread (0, 0, 0): the mask 0xffffffff names lane 20, which";
    for order in [Order::Forward, Order::Reverse] {
        let options = Options { order, ..Options::default() };
        let fault = attempt(&paths.replace("LAST", "19"), 1, 32, &options).1.unwrap_err().to_string();
        assert!(fault.starts_with(message), "{fault}");
    }
}
