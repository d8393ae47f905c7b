//! Each instruction against values from its definition in the ISA: one warp, one case per lane.
//!
//! A case: the instruction with sources `%w0`–`%w3` (words), `%d0`–`%d3` (double words), `%p0`–`%p3`
//! (predicates: value ≠ 0), all set from the four inputs, and the result in `%w9`, `%d9` or `%p9`.

#![allow(clippy::needless_range_loop)]

use ptx::{Launch, Memory, Module, Options, run};

fn kernel(code: &str) -> String {
    let mut text = String::from(
        ".version 8.3\n.target sm_90\n.address_size 64\n.visible .entry t(.param .u64 in, .param .u64 out)\n{\n\
         .reg .b64 %d<40>;\n.reg .b32 %w<40>;\n.reg .pred %p<40>;\n\
         mov.u32 %w20, %tid.x;\nld.param.u64 %d20, [in];\nld.param.u64 %d21, [out];\n\
         mad.wide.u32 %d20, %w20, 32, %d20;\nmad.wide.u32 %d21, %w20, 24, %d21;\n\
         mov.u64 %d9, 0;\nmov.u32 %w9, 0;\nmov.pred %p9, 0;\n",
    );
    for i in 0..4 {
        text += &format!("ld.global.u64 %d{i}, [%d20+{}];\ncvt.u32.u64 %w{i}, %d{i};\n", 8 * i);
        text += &format!("setp.ne.u64 %p{i}, %d{i}, 0;\n");
    }
    text += code;
    text += "\nst.global.u32 [%d21], %w9;\nst.global.u32 [%d21+4], 0;\nst.global.u64 [%d21+8], %d9;\n\
             selp.u64 %d30, 1, 0, %p9;\nst.global.u64 [%d21+16], %d30;\nret;\n}\n";
    text
}

/// The results in `%w9`, `%d9` and `%p9` of each lane.
fn results(code: &str, inputs: &[[u64; 4]]) -> Vec<[u64; 3]> {
    let module = Module::parse(&kernel(code)).unwrap_or_else(|error| panic!("{code}: {error}"));
    let mut memory = Memory::new(true);
    let (from, to) =
        (memory.allocate(32 * inputs.len()).unwrap(), memory.allocate(24 * inputs.len()).unwrap());
    let bytes: Vec<u8> = inputs.iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    memory.write(from, &bytes).unwrap();
    let params: Vec<u8> = [from, to].iter().flat_map(|x| x.to_le_bytes()).collect();
    let launch =
        Launch { grid: [1; 3], block: [inputs.len() as u32, 1, 1], dynamic_shared: 0, params: &params };
    run(&module, "t", &launch, &mut memory, &Options::default())
        .unwrap_or_else(|fault| panic!("{code}: {fault}"));
    let mut out = vec![0; 24 * inputs.len()];
    memory.read(to, &mut out).unwrap();
    let word = |at: usize| u64::from_le_bytes(out[at..at + 8].try_into().unwrap());
    (0..inputs.len()).map(|lane| [word(24 * lane), word(24 * lane + 8), word(24 * lane + 16)]).collect()
}

/// Runs `code` on the cases; the result is that of the destination that the code names.
fn check(code: &str, cases: &[(&[u64], u64)]) {
    let mut inputs: Vec<[u64; 4]> = Vec::new();
    for (sources, _) in cases {
        let mut all = [0; 4];
        all[..sources.len()].copy_from_slice(sources);
        inputs.push(all);
    }
    let index = if code.contains("%d9") {
        1
    } else if code.contains("%p9") {
        2
    } else {
        0
    };
    for (lane, result) in results(code, &inputs).iter().enumerate() {
        let (sources, expected) = cases[lane];
        assert_eq!(result[index], expected, "{code} {sources:x?}: {:#x} is not {expected:#x}", result[index]);
    }
}

fn f(x: f32) -> u64 {
    x.to_bits() as u64
}
fn d(x: f64) -> u64 {
    x.to_bits()
}
/// A negative word.
fn n(x: i32) -> u64 {
    x as u32 as u64
}
const NAN: u64 = 0x7fff_ffff;
const INF: f32 = f32::INFINITY;

#[test]
fn integer_arithmetic_wraps_and_divides_as_the_isa_says() {
    check("add.s32 %w9, %w0, %w1;", &[(&[5, n(-7)], n(-2)), (&[n(i32::MAX), 1], n(i32::MIN))]);
    check("add.s64 %d9, %d0, %d1;", &[(&[u64::MAX, 2], 1)]);
    check("sub.s32 %w9, %w0, %w1;", &[(&[5, 7], n(-2))]);
    check("sub.s64 %d9, %d0, %d1;", &[(&[5, 7], -2i64 as u64)]);
    check("mul.lo.s32 %w9, %w0, %w1;", &[(&[0x10001, 0x10001], 0x20001), (&[n(-3), 5], n(-15))]);
    check("mul.lo.s64 %d9, %d0, %d1;", &[(&[1 << 40, 1 << 30], 0), (&[3, 5], 15)]);
    check("mul.hi.u32 %w9, %w0, %w1;", &[(&[n(-1), n(-1)], 0xffff_fffe)]);
    check("mul.hi.s32 %w9, %w0, %w1;", &[(&[n(-1), n(-1)], 0), (&[n(i32::MIN), 2], n(-1))]);
    check("mul.wide.s32 %d9, %w0, %w1;", &[(&[n(-2), 3], -6i64 as u64)]);
    check("mul.wide.u32 %d9, %w0, %w1;", &[(&[n(-1), n(-1)], 0xffff_fffe_0000_0001)]);
    check("mul.wide.u16 %w9, %w0, %w1;", &[(&[0x1_ffff, 0xffff], 0xfffe_0001)]);
    check("mad.lo.s32 %w9, %w0, %w1, %w2;", &[(&[n(-3), 5, 1], n(-14))]);
    check("mad.lo.s64 %d9, %d0, %d1, %d2;", &[(&[3, 5, 1], 16)]);
    check("mad.wide.s32 %d9, %w0, %w1, %d2;", &[(&[n(-3), 5, 1], -14i64 as u64)]);
    check("mad.hi.u32 %w9, %w0, %w1, %w2;", &[(&[1 << 31, 4, 7], 9)]);
    check("mul24.lo.u32 %w9, %w0, %w1;", &[(&[0xff00_0002, 3], 6)]);
    check(
        "div.s32 %w9, %w0, %w1;",
        &[(&[n(-7), 2], n(-3)), (&[n(i32::MIN), n(-1)], n(i32::MIN)), (&[7, 7], 1)],
    );
    check(
        "div.u32 %w9, %w0, %w1;",
        &[(&[n(-1), 3], 0x5555_5555), (&[n(-1), n(-1)], 1), (&[n(-2), n(-1)], 0)],
    );
    check("div.u64 %d9, %d0, %d1;", &[(&[u64::MAX, 10], u64::MAX / 10)]);
    check("rem.s32 %w9, %w0, %w1;", &[(&[n(-7), 2], n(-1)), (&[n(i32::MIN), n(-1)], 0)]);
    check("rem.u32 %w9, %w0, %w1;", &[(&[n(-1), 10], 5)]);
    check("min.s32 %w9, %w0, %w1;", &[(&[n(-7), 2], n(-7))]);
    check("min.u32 %w9, %w0, %w1;", &[(&[n(-7), 2], 2)]);
    check("max.s32 %w9, %w0, %w1;", &[(&[n(-7), 2], 2)]);
    check("max.u32 %w9, %w0, %w1;", &[(&[n(-7), 2], n(-7))]);
    check("min.s64 %d9, %d0, %d1;", &[(&[-7i64 as u64, 2], -7i64 as u64)]);
    check("abs.s32 %w9, %w0;", &[(&[n(-7)], 7), (&[n(i32::MIN)], n(i32::MIN))]);
    check("neg.s32 %w9, %w0;", &[(&[7], n(-7))]);
    check("neg.s64 %d9, %d0;", &[(&[7], -7i64 as u64)]);
    check("add.sat.s32 %w9, %w0, %w1;", &[(&[n(i32::MAX), 1], n(i32::MAX))]);
    check("sad.u32 %w9, %w0, %w1, %w2;", &[(&[3, 10, 5], 12)]);
    check("dp4a.u32.u32 %w9, %w0, %w1, %w2;", &[(&[0x0102_03ff, 0x0101_0101, 5], 1 + 2 + 3 + 255 + 5)]);
    check("dp4a.s32.s32 %w9, %w0, %w1, %w2;", &[(&[0xff, 2, 5], 3)]);
}

#[test]
fn bits_are_shifted_counted_and_permuted() {
    check("and.b32 %w9, %w0, %w1;", &[(&[0b1100, 0b1010], 0b1000)]);
    check("or.b32 %w9, %w0, %w1;", &[(&[0b1100, 0b1010], 0b1110)]);
    check("xor.b32 %w9, %w0, %w1;", &[(&[0b1100, 0b1010], 0b0110)]);
    check("or.b64 %d9, %d0, %d1;", &[(&[1 << 40, 1], (1 << 40) | 1)]);
    check("xor.b64 %d9, %d0, %d1;", &[(&[u64::MAX, 1], u64::MAX - 1)]);
    check("and.b16 %w9, %w0, 255;", &[(&[0x1234], 0x34)]);
    check("not.b32 %w9, %w0;", &[(&[0], n(-1))]);
    check("cnot.b32 %w9, %w0;", &[(&[0], 1), (&[7], 0)]);
    check("shl.b32 %w9, %w0, %w1;", &[(&[1, 31], 1 << 31), (&[1, 32], 0), (&[1, n(-1)], 0)]);
    check("shl.b64 %d9, %d0, %w1;", &[(&[1, 63], 1 << 63), (&[1, 64], 0)]);
    check("shr.u32 %w9, %w0, %w1;", &[(&[n(-1), 31], 1), (&[n(-1), 32], 0)]);
    check("shr.s32 %w9, %w0, %w1;", &[(&[n(-8), 1], n(-4)), (&[n(-8), 99], n(-1))]);
    check("shr.u64 %d9, %d0, %w1;", &[(&[u64::MAX, 60], 15)]);
    check("shr.u16 %w9, %w0, 10;", &[(&[0xffff], 63)]);
    check("shf.l.wrap.b32 %w9, %w0, %w1, %w2;", &[(&[0x8000_0000, 1, 1], 3), (&[5, 6, 32], 6)]);
    check("shf.r.wrap.b32 %w9, %w0, %w1, %w2;", &[(&[2, 1, 1], 0x8000_0001)]);
    check("shf.l.clamp.b32 %w9, %w0, %w1, %w2;", &[(&[5, 6, 40], 5)]);
    check("bfe.u32 %w9, %w0, %w1, %w2;", &[(&[0xabcd, 4, 8], 0xbc), (&[n(-1), 28, 8], 15), (&[9, 0, 0], 0)]);
    check("bfe.s32 %w9, %w0, %w1, %w2;", &[(&[0xabcd, 4, 8], 0xffff_ffbc), (&[n(-1), 40, 8], n(-1))]);
    check("bfi.b32 %w9, %w0, %w1, %w2, %w3;", &[(&[0xff, 0, 4, 4], 0xf0), (&[1, n(-1), 0, 2], n(-3))]);
    check("bfind.u32 %w9, %w0;", &[(&[0], n(-1)), (&[0x10], 4)]);
    check("bfind.s32 %w9, %w0;", &[(&[n(-1)], n(-1)), (&[n(-17)], 4)]);
    check("bfind.shiftamt.u32 %w9, %w0;", &[(&[1], 31), (&[0], n(-1))]);
    check("brev.b32 %w9, %w0;", &[(&[1], 1 << 31)]);
    check("clz.b32 %w9, %w0;", &[(&[0], 32), (&[1], 31)]);
    check("clz.b64 %w9, %d0;", &[(&[0], 64)]);
    check("popc.b32 %w9, %w0;", &[(&[0xf0f], 8)]);
    check("popc.b64 %w9, %d0;", &[(&[u64::MAX], 64)]);
    check("lop3.b32 %w9, %w0, %w1, %w2, 0x96;", &[(&[0b1100, 0b1010, 0b0110], 0)]);
    check("lop3.b32 %w9, %w0, %w1, %w2, 0xca;", &[(&[0b1100, 0b1010, 0b0101], 0b1001)]);
    check("prmt.b32 %w9, %w0, %w1, %w2;", &[(&[0x3322_1180, 0x7766_5544, 0x8740], 0xff77_4480)]);
    check("prmt.b32.rc16 %w9, %w0, %w1, %w2;", &[(&[0x3322_1100, 0, 1], 0x3322_3322)]);
    check("mov.b64 %d9, {%w0, %w1};", &[(&[1, 2], (2 << 32) | 1)]);
    check("mov.b64 {_, %w9}, %d0;", &[(&[(7 << 32) | 1], 7)]);
    check("mov.b64 {%w9, %w8}, %d0;", &[(&[(7 << 32) | 1], 1)]);
    check("mov.b32 %w9, {%w0, %w1};", &[(&[1, 2], 0x2_0001)]);
    check("mov.b32 {%w8, %w9}, %w0;", &[(&[0xabcd_1234], 0xabcd)]);
}

#[test]
fn predicates_compare_select_and_combine() {
    for (code, cases) in [
        ("setp.lt.s32 %p9, %w0, %w1;", [(n(-1), 1, 1), (1, 1, 0)]),
        ("setp.lt.u32 %p9, %w0, %w1;", [(n(-1), 1, 0), (0, 1, 1)]),
        ("setp.le.s32 %p9, %w0, %w1;", [(1, 1, 1), (2, 1, 0)]),
        ("setp.gt.u32 %p9, %w0, %w1;", [(n(-1), 1, 1), (1, 1, 0)]),
        ("setp.ge.s32 %p9, %w0, %w1;", [(n(-1), 1, 0), (1, 1, 1)]),
        ("setp.eq.s16 %p9, %w0, %w1;", [(0x1_0003, 3, 1), (2, 3, 0)]),
        ("setp.ne.b64 %p9, %d0, %d1;", [(1 << 40, 0, 1), (5, 5, 0)]),
        ("setp.lt.s64 %p9, %d0, %d1;", [(u64::MAX, 0, 1), (5, 5, 0)]),
        ("setp.eq.f32 %p9, %w0, %w1;", [(f(0.0), f(-0.0), 1), (NAN, NAN, 0)]),
        ("setp.ne.f32 %p9, %w0, %w1;", [(f(0.0), f(1.0), 1), (NAN, NAN, 0)]),
        ("setp.neu.f32 %p9, %w0, %w1;", [(f(0.0), f(1.0), 1), (NAN, NAN, 1)]),
        ("setp.lt.f32 %p9, %w0, %w1;", [(f(0.0), f(1.0), 1), (NAN, f(1.0), 0)]),
        ("setp.ltu.f32 %p9, %w0, %w1;", [(f(2.0), f(1.0), 0), (NAN, f(1.0), 1)]),
        ("setp.leu.f32 %p9, %w0, %w1;", [(f(1.0), f(1.0), 1), (NAN, f(1.0), 1)]),
        ("setp.gtu.f32 %p9, %w0, %w1;", [(f(1.0), f(1.0), 0), (NAN, f(1.0), 1)]),
        ("setp.geu.f32 %p9, %w0, %w1;", [(f(1.0), f(1.0), 1), (NAN, f(1.0), 1)]),
        ("setp.num.f32 %p9, %w0, %w1;", [(f(1.0), f(1.0), 1), (NAN, f(1.0), 0)]),
        ("setp.nan.f32 %p9, %w0, %w1;", [(f(1.0), f(1.0), 0), (NAN, f(1.0), 1)]),
        ("setp.lt.ftz.f32 %p9, %w0, %w1;", [(0, 1, 0), (0, f(1.0), 1)]),
    ] {
        check(code, &[(&[cases[0].0, cases[0].1], cases[0].2), (&[cases[1].0, cases[1].1], cases[1].2)]);
    }
    check("setp.lt.and.s32 %p9|%p8, %w0, %w1, %p2;", &[(&[0, 1, 1], 1), (&[0, 1, 0], 0), (&[1, 0, 1], 0)]);
    check("setp.lt.and.s32 %p8|%p9, %w0, %w1, %p2;", &[(&[0, 1, 1], 0), (&[1, 0, 1], 1), (&[1, 0, 0], 0)]);
    check("setp.lt.or.s32 %p9, %w0, %w1, !%p2;", &[(&[1, 0, 0], 1), (&[1, 0, 1], 0)]);
    check("and.pred %p9, %p0, %p1;", &[(&[1, 0], 0), (&[1, 1], 1)]);
    check("or.pred %p9, %p0, %p1;", &[(&[1, 0], 1), (&[0, 0], 0)]);
    check("xor.pred %p9, %p0, %p1;", &[(&[1, 1], 0), (&[0, 1], 1)]);
    check("not.pred %p9, %p0;", &[(&[1], 0), (&[0], 1)]);
    check("mov.pred %p9, -1;", &[(&[0], 1)]);
    check("selp.b32 %w9, %w0, %w1, %p2;", &[(&[5, 6, 1], 5), (&[5, 6, 0], 6)]);
    check("selp.b64 %d9, %d0, %d1, %p2;", &[(&[5, 6, 1], 5), (&[5, 6, 0], 6)]);
    check("selp.f32 %w9, 0f3F800000, %w1, %p2;", &[(&[5, 6, 1], f(1.0)), (&[5, 6, 0], 6)]);
    check("@%p0 mov.u32 %w9, 7;", &[(&[1], 7), (&[0], 0)]);
    check("@!%p0 mov.u32 %w9, 7;", &[(&[1], 0), (&[0], 7)]);
}

#[test]
fn single_precision_rounds_flushes_and_saturates() {
    let tiny = 1u64; // the smallest subnormal number
    let up = f(1.0) + 1;
    let small = f(2f32.powi(-30));
    check(
        "add.f32 %w9, %w0, %w1;",
        &[(&[f(1.5), f(2.0)], f(3.5)), (&[f(INF), f(-INF)], NAN), (&[0xffc0_0001, f(1.0)], NAN)],
    );
    check("add.rm.f32 %w9, %w0, %w1;", &[(&[f(1.0), small], f(1.0)), (&[f(1.0), f(-1.0)], f(-0.0))]);
    check("add.rp.f32 %w9, %w0, %w1;", &[(&[f(1.0), small], up), (&[f(1.0), f(-1.0)], 0)]);
    check(
        "add.rz.f32 %w9, %w0, %w1;",
        &[(&[f(-1.0), f(2f32.powi(-30))], f(-1.0) - 1), (&[f(f32::MAX), f(f32::MAX)], f(f32::MAX))],
    );
    check("add.ftz.f32 %w9, %w0, %w1;", &[(&[tiny, tiny], 0), (&[f(1.0), tiny], f(1.0))]);
    check("add.f32 %w9, %w0, %w1;", &[(&[tiny, tiny], 2)]);
    check(
        "add.sat.f32 %w9, %w0, %w1;",
        &[(&[f(1.0), f(1.0)], f(1.0)), (&[f(-3.0), f(1.0)], 0), (&[NAN, 0], 0)],
    );
    check("sub.f32 %w9, %w0, %w1;", &[(&[f(1.5), f(2.0)], f(-0.5))]);
    check("mul.f32 %w9, %w0, %w1;", &[(&[f(1.5), f(2.0)], f(3.0)), (&[f(INF), 0], NAN)]);
    check("mul.rp.f32 %w9, %w0, %w1;", &[(&[up, up], f(1.0) + 3)]);
    check("mul.rm.f32 %w9, %w0, %w1;", &[(&[up, up], f(1.0) + 2), (&[0, f(1.0)], 0)]);
    check("mul.rz.f32 %w9, %w0, %w1;", &[(&[1, f(0.5)], 0)]);
    check("fma.rn.f32 %w9, %w0, %w1, %w2;", &[(&[up, up, f(-1.0)], f(2f32.powi(-22) + 2f32.powi(-46)))]);
    check(
        "fma.rm.f32 %w9, %w0, %w1, %w2;",
        &[
            (&[f(1.0), small, f(1.0)], f(1.0)),
            (&[f(-1.0), small, f(1.0)], f(1.0) - 1),
            (&[f(3.0), f(5.0), f(7.0)], f(22.0)),
            (&[f(1.0), f(1.0), f(-1.0)], f(-0.0)),
            (&[NAN, 0, 0], NAN),
            (&[f(f32::MAX), f(2.0), 0], f(f32::MAX)),
            (&[f(-INF), f(2.0), 0], f(-INF)),
        ],
    );
    check("fma.rp.f32 %w9, %w0, %w1, %w2;", &[(&[f(1.0), small, f(1.0)], up)]);
    check("fma.rz.f32 %w9, %w0, %w1, %w2;", &[(&[f(1.0), small, f(-1.0)], f(-1.0) - 1)]);
    check(
        "div.rn.f32 %w9, %w0, %w1;",
        &[(&[f(1.0), f(3.0)], f(1.0 / 3.0)), (&[f(1.0), 0], f(INF)), (&[0, 0], NAN)],
    );
    check("div.rp.f32 %w9, %w0, %w1;", &[(&[f(1.0), f(3.0)], 0x3eaa_aaab), (&[f(4.0), f(2.0)], f(2.0))]);
    check(
        "div.rz.f32 %w9, %w0, %w1;",
        &[(&[f(1.0), f(3.0)], 0x3eaa_aaaa), (&[f(1.0), f(-3.0)], 0xbeaa_aaaa)],
    );
    check("rcp.rn.f32 %w9, %w0;", &[(&[f(3.0)], f(1.0 / 3.0))]);
    check("sqrt.rn.f32 %w9, %w0;", &[(&[f(2.0)], f(2f32.sqrt())), (&[f(-1.0)], NAN)]);
    check("sqrt.rm.f32 %w9, %w0;", &[(&[f(2.0)], 0x3fb5_04f3), (&[f(4.0)], f(2.0))]);
    check("sqrt.rp.f32 %w9, %w0;", &[(&[f(2.0)], 0x3fb5_04f4)]);
    check(
        "min.f32 %w9, %w0, %w1;",
        &[(&[f(-0.0), 0], f(-0.0)), (&[NAN, f(1.0)], f(1.0)), (&[NAN, NAN], NAN)],
    );
    check(
        "max.f32 %w9, %w0, %w1;",
        &[(&[f(-0.0), 0], 0), (&[f(1.0), NAN], f(1.0)), (&[f(1.0), f(2.0)], f(2.0))],
    );
    check("max.NaN.f32 %w9, %w0, %w1;", &[(&[f(1.0), NAN], NAN)]);
    check("min.xorsign.abs.f32 %w9, %w0, %w1;", &[(&[f(-3.0), f(2.0)], f(-2.0))]);
    check("abs.f32 %w9, %w0;", &[(&[f(-3.0)], f(3.0))]);
    check("neg.f32 %w9, %w0;", &[(&[f(-3.0)], f(3.0)), (&[0], f(-0.0))]);
    check("copysign.f32 %w9, %w0, %w1;", &[(&[f(-1.0), f(3.0)], f(-3.0))]);
    check("testp.subnormal.f32 %p9, %w0;", &[(&[1], 1), (&[f(1.0)], 0)]);
    check("fma.rn.f64 %d9, %d0, %d1, %d2;", &[(&[d(2.0), d(3.0), d(1.0)], d(7.0))]);
    check("add.f64 %d9, %d0, %d1;", &[(&[d(2.0), d(3.0)], d(5.0))]);
    check("div.rn.f64 %d9, %d0, %d1;", &[(&[d(1.0), d(3.0)], d(1.0 / 3.0))]);
    check("setp.lt.f64 %p9, %d0, %d1;", &[(&[d(2.0), d(3.0)], 1)]);
}

#[test]
fn directed_rounding_brackets_the_exact_result() {
    // Against double precision, where sums and products of these numbers are exact.
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bits = (state >> 32) as u32;
        f32::from_bits(bits & 0x807f_ffff | (110 + (bits >> 24 & 31)) << 23)
    };
    for _ in 0..40 {
        let inputs: Vec<[u64; 4]> = (0..32).map(|_| [f(next()), f(next()), 0, 0]).collect();
        let low = results("mul.rm.f32 %w9, %w0, %w1;", &inputs);
        let high = results("mul.rp.f32 %w9, %w0, %w1;", &inputs);
        let zero = results("fma.rz.f32 %w9, %w0, %w1, 0f00000000;", &inputs);
        for lane in 0..32 {
            let value = |row: &Vec<[u64; 3]>| f32::from_bits(row[lane][0] as u32) as f64;
            let factor = |at: usize| f32::from_bits(inputs[lane][at] as u32) as f64;
            let exact = factor(0) * factor(1);
            assert!(value(&low) <= exact && exact <= value(&high));
            assert!(high[lane][0].abs_diff(low[lane][0]) <= 1);
            let inner = if exact > 0.0 { value(&low) } else { value(&high) };
            assert_eq!(value(&zero), inner);
        }
    }
}

#[test]
fn approximate_functions_keep_their_bounds() {
    let inputs: Vec<f32> = (0..32).map(|i| (i as f32 - 15.5) * 0.37).collect();
    type Function = fn(f64) -> f64;
    let functions: [(&str, Function, f64); 6] = [
        ("ex2.approx.ftz.f32", |x| x.exp2(), 1.2e-7),
        ("rcp.approx.ftz.f32", |x| 1.0 / x, 1.2e-7),
        ("sin.approx.f32", |x| x.sin(), 1.2e-7),
        ("cos.approx.f32", |x| x.cos(), 1.2e-7),
        ("tanh.approx.f32", |x| x.tanh(), 1.2e-7),
        ("ex2.approx.f32", |x| x.exp2(), 1.2e-7),
    ];
    for (name, function, bound) in functions {
        let rows: Vec<[u64; 4]> = inputs.iter().map(|&x| [f(x), 0, 0, 0]).collect();
        for (row, x) in results(&format!("{name} %w9, %w0;"), &rows).iter().zip(&inputs) {
            let (found, exact) = (f32::from_bits(row[0] as u32) as f64, function(*x as f64));
            assert!((found - exact).abs() <= bound * exact.abs(), "{name}({x}) = {found}, not {exact}");
        }
    }
    check(
        "ex2.approx.ftz.f32 %w9, %w0;",
        &[
            (&[0], f(1.0)),
            (&[f(3.0)], f(8.0)),
            (&[f(-INF)], 0),
            (&[f(INF)], f(INF)),
            (&[f(128.0)], f(INF)),
            (&[f(-130.0)], 0),
            (&[NAN], NAN),
        ],
    );
    check("ex2.approx.f32 %w9, %w0;", &[(&[f(-149.0)], 1), (&[f(-126.0)], f(f32::MIN_POSITIVE))]);
    check("lg2.approx.f32 %w9, %w0;", &[(&[f(8.0)], f(3.0)), (&[0], f(-INF)), (&[f(-1.0)], NAN)]);
    check("rsqrt.approx.f32 %w9, %w0;", &[(&[f(0.25)], f(2.0)), (&[0], f(INF))]);
    check("sqrt.approx.ftz.f32 %w9, %w0;", &[(&[f(4.0)], f(2.0))]);
    check("div.full.f32 %w9, %w0, %w1;", &[(&[f(6.0), f(3.0)], f(2.0))]);
    check("div.approx.f32 %w9, %w0, %w1;", &[(&[f(6.0), f(3.0)], f(2.0)), (&[f(1.0), f(2f32.powi(127))], 0)]);
}

#[test]
fn conversions_round_and_clamp() {
    check("cvt.u16.u32 %w9, %w0;", &[(&[0x12345], 0x2345)]);
    check("cvt.s32.s16 %w9, %w0;", &[(&[0xffff], n(-1))]);
    check("cvt.u32.u16 %w9, %w0;", &[(&[0x1_ffff], 0xffff)]);
    check("cvt.s64.s32 %d9, %w0;", &[(&[n(-1)], u64::MAX)]);
    check("cvt.u64.u32 %d9, %w0;", &[(&[n(-1)], 0xffff_ffff)]);
    check("cvt.u32.u64 %w9, %d0;", &[(&[0x1_0000_0002], 2)]);
    check("cvt.rn.f32.s32 %w9, %w0;", &[(&[n(-3)], f(-3.0)), (&[16777217], f(16777216.0))]);
    check("cvt.rz.f32.u32 %w9, %w0;", &[(&[16777219], f(16777218.0))]);
    check("cvt.rn.f32.u32 %w9, %w0;", &[(&[n(-1)], f(4294967296.0))]);
    check("cvt.rn.f32.u16 %w9, %w0;", &[(&[0x1_0003], f(3.0))]);
    check("cvt.rn.f32.s64 %w9, %d0;", &[(&[-3i64 as u64], f(-3.0))]);
    check("cvt.rzi.s32.f32 %w9, %w0;", &[(&[f(-2.7)], n(-2)), (&[NAN], 0), (&[f(1e20)], n(i32::MAX))]);
    check("cvt.rni.s32.f32 %w9, %w0;", &[(&[f(2.5)], 2), (&[f(3.5)], 4)]);
    check("cvt.rmi.s32.f32 %w9, %w0;", &[(&[f(-2.1)], n(-3))]);
    check("cvt.rzi.u32.f32 %w9, %w0;", &[(&[f(-2.7)], 0), (&[f(4e9)], 4000000000)]);
    check("cvt.rni.f32.f32 %w9, %w0;", &[(&[f(2.5)], f(2.0)), (&[f(-0.2)], f(-0.0))]);
    check("cvt.rzi.f32.f32 %w9, %w0;", &[(&[f(-2.7)], f(-2.0))]);
    check(
        "cvt.sat.f32.f32 %w9, %w0;",
        &[(&[f(2.7)], f(1.0)), (&[f(-1.0)], 0), (&[NAN], 0), (&[f(0.3)], f(0.3))],
    );
    check("cvt.f64.f32 %d9, %w0;", &[(&[f(2.5)], d(2.5))]);
    check("cvt.rn.f32.f64 %w9, %d0;", &[(&[d(0.1)], f(0.1))]);
    check("cvt.rp.f32.f64 %w9, %d0;", &[(&[d(0.1)], f(0.1)), (&[d(0.3)], f(0.3))]);
}

#[test]
fn half_precision_is_exact() {
    check(
        "cvt.rn.f16.f32 %w9, %w0;",
        &[
            (&[f(1.0)], 0x3c00),
            (&[f(-2.5)], 0xc100),
            (&[f(65504.0)], 0x7bff),
            (&[f(65520.0)], 0x7c00),
            (&[f(65519.9)], 0x7bff),
            (&[f(5.9604645e-8)], 1),
            (&[f(2.9e-8)], 0),
            (&[NAN], 0x7fff),
            (&[f(INF)], 0x7c00),
            (&[f(1.0 + 2f32.powi(-11))], 0x3c00),
            (&[f(1.0 + 3.0 * 2f32.powi(-11))], 0x3c02),
        ],
    );
    check(
        "cvt.f32.f16 %w9, %w0;",
        &[
            (&[0x3c00], f(1.0)),
            (&[1], f(5.9604645e-8)),
            (&[0x7c00], f(INF)),
            (&[0xfc00], f(-INF)),
            (&[0x7e00], NAN),
            (&[0x7bff], f(65504.0)),
            (&[0x8000], f(-0.0)),
        ],
    );
    check(
        "cvt.rn.bf16.f32 %w9, %w0;",
        &[
            (&[f(1.0)], 0x3f80),
            (&[0x3f80_8000], 0x3f80),
            (&[0x3f81_8000], 0x3f82),
            (&[f(INF)], 0x7f80),
            (&[NAN], 0x7fff),
            (&[0x7f7f_ffff], 0x7f80),
            (&[1], 0),
            (&[0x0001_8000], 2),
        ],
    );
    check("cvt.rz.bf16.f32 %w9, %w0;", &[(&[0x3f80_ffff], 0x3f80)]);
    check("cvt.f32.bf16 %w9, %w0;", &[(&[0x3f80], f(1.0))]);
    check("cvt.rn.bf16x2.f32 %w9, %w0, %w1;", &[(&[f(1.0), f(2.0)], 0x3f80_4000)]);
    check("cvt.rn.f16x2.f32 %w9, %w0, %w1;", &[(&[f(1.0), f(2.0)], 0x3c00_4000)]);
    check("cvt.rn.relu.bf16x2.f32 %w9, %w0, %w1;", &[(&[f(-1.0), f(2.0)], 0x0000_4000)]);
    check("cvt.rna.tf32.f32 %w9, %w0;", &[(&[0x3f80_1000], 0x3f80_2000), (&[0x3f80_0fff], 0x3f80_0000)]);
    check("cvt.rn.tf32.f32 %w9, %w0;", &[(&[0x3f80_1000], 0x3f80_0000), (&[0x3f80_3000], 0x3f80_4000)]);
    check("add.f16 %w9, %w0, %w1;", &[(&[0x3c00, 0x3c00], 0x4000)]);
    check("fma.rn.f16 %w9, %w0, %w1, %w2;", &[(&[0x3c01, 0x3c01, 0xbc00], 0x1800)]);
    check("add.f16x2 %w9, %w0, %w1;", &[(&[0x3c00_4000, 0x3c00_3c00], 0x4000_4200)]);
    check("fma.rn.bf16x2 %w9, %w0, %w1, %w2;", &[(&[0x3f80_4000, 0x4000_4000, 0x3f80_3f80], 0x4040_40a0)]);
    check("mul.bf16x2 %w9, %w0, %w1;", &[(&[0x3f80_4000, 0x4000_4000], 0x4000_4080)]);
    check("max.bf16x2 %w9, %w0, %w1;", &[(&[0x3f80_4000, 0x4000_3f80], 0x4000_4000)]);
    check("neg.bf16x2 %w9, %w0;", &[(&[0x3f80_4000], 0xbf80_c000)]);
}

fn lanes() -> Vec<[u64; 4]> {
    (0..32).map(|lane| [lane + 100, lane, lane / 8, lane % 2]).collect()
}
fn words(code: &str) -> Vec<u64> {
    results(code, &lanes()).iter().map(|row| row[0]).collect()
}

#[test]
fn shuffles_move_values_between_lanes() {
    let expect = |code: &str, of: &dyn Fn(u64) -> u64| {
        let found = words(code);
        for lane in 0..32 {
            assert_eq!(found[lane as usize], of(lane) + 100, "{code} lane {lane}");
        }
    };
    expect("shfl.sync.bfly.b32 %w9|%p9, %w0, 5, 31, -1;", &|lane| lane ^ 5);
    expect("shfl.sync.up.b32 %w9|%p9, %w0, 3, 0, -1;", &|lane| if lane >= 3 { lane - 3 } else { lane });
    expect("shfl.sync.down.b32 %w9, %w0, 3, 31, -1;", &|lane| if lane + 3 < 32 { lane + 3 } else { lane });
    expect("shfl.sync.idx.b32 %w9, %w0, 7, 31, -1;", &|_| 7);
    // Segments of 8 lanes: c = (32 - 8) << 8 | 31.
    expect("shfl.sync.idx.b32 %w9, %w0, 2, 6175, -1;", &|lane| lane / 8 * 8 + 2);
    expect("shfl.sync.down.b32 %w9, %w0, 1, 6175, -1;", &|lane| if lane % 8 < 7 { lane + 1 } else { lane });
    expect("shfl.sync.up.b32 %w9, %w0, 1, 6144, -1;", &|lane| if lane % 8 > 0 { lane - 1 } else { lane });
    let inside = results("shfl.sync.up.b32 %w9|%p9, %w0, 3, 0, -1;", &lanes());
    assert!((0..32).all(|lane| inside[lane][2] == (lane >= 3) as u64));
}

#[test]
fn votes_look_at_the_lanes_of_their_mask() {
    let all = |code: &str, value: u64| {
        assert!(words(code).iter().all(|&x| x == value), "{code}: {:x?}", words(code))
    };
    all("vote.sync.ballot.b32 %w9, %p3, -1;", 0xaaaa_aaaa);
    all("vote.sync.ballot.b32 %w9, !%p3, -1;", 0x5555_5555);
    all("vote.sync.all.pred %p5, %p0, -1;\nselp.u32 %w9, 1, 0, %p5;", 1);
    all("vote.sync.any.pred %p5, %p3, -1;\nselp.u32 %w9, 1, 0, %p5;", 1);
    all("vote.sync.uni.pred %p5, %p3, -1;\nselp.u32 %w9, 1, 0, %p5;", 0);
    all("activemask.b32 %w9;", 0xffff_ffff);
    all("redux.sync.add.u32 %w9, %w1, -1;", 496);
    all("redux.sync.max.s32 %w9, %w1, -1;", 31);
    all("redux.sync.xor.b32 %w9, %w3, -1;", 0);
    all("elect.sync %w9|%p9, -1;", 0);
    let found = words("match.any.sync.b32 %w9, %w2, -1;");
    assert!((0..32).all(|lane| found[lane] == 0xff << (lane / 8 * 8)));
    all("match.all.sync.b32 %w9|%p9, %w2, -1;", 0);
    // The even lanes vote among themselves.
    let code = "@%p3 bra ODD;\nvote.sync.ballot.b32 %w9, %p0, 0x55555555;\nODD:";
    assert!((0..32).all(|lane| words(code)[lane] == if lane % 2 == 0 { 0x5555_5555 } else { 0 }));
}

#[test]
fn diverged_lanes_meet_again() {
    // A loop whose rounds differ by lane, a branch inside it, and a full-mask vote after it.
    let code = "mov.u32 %w8, 0;\nLOOP:\nsetp.ge.u32 %p5, %w8, %w1;\n@%p5 bra DONE;\nadd.u32 %w8, %w8, 1;\n\
                and.b32 %w7, %w8, 1;\nsetp.eq.u32 %p6, %w7, 0;\n@%p6 bra EVEN;\nadd.u32 %w9, %w9, 10;\nbra LOOP;\n\
                EVEN:\nadd.u32 %w9, %w9, 1;\nbra.uni LOOP;\nDONE:\nactivemask.b32 %w6;\n\
                setp.ne.u32 %p7, %w6, -1;\n@%p7 mov.u32 %w9, 9999;";
    let found = words(code);
    for lane in 0..32 {
        assert_eq!(found[lane], (lane as u64).div_ceil(2) * 10 + lane as u64 / 2);
    }
}

#[test]
fn memory_of_every_space_and_width() {
    let header = ".shared .align 16 .b8 place[1024];\n.local .align 16 .b8 own[32];\n";
    let body = |code: &str| words(&format!("{header}{code}"));
    let same = |code: &str| {
        let found = body(code);
        assert!((0..32).all(|lane| found[lane] == lane as u64 + 100), "{code}: {found:?}");
    };
    same(
        "shl.b32 %w8, %w1, 2;\nmov.u32 %w7, place;\nadd.u32 %w8, %w8, %w7;\nst.shared.u32 [%w8], %w0;\nld.shared.u32 %w9, [%w8];",
    );
    same("shl.b32 %w8, %w1, 2;\nst.shared.u8 [%w8+1], %w0;\nld.shared.u8 %w9, [%w8+1];");
    same("shl.b32 %w8, %w1, 2;\nst.shared.u16 [%w8+2], %w0;\nld.shared.s16 %w9, [%w8+2];");
    same("mov.u64 %d8, own;\ncvta.local.u64 %d8, %d8;\nst.u32 [%d8+4], %w0;\nld.local.u32 %w9, [own+4];");
    same("st.local.v2.u32 [own+8], {%w1, %w0};\nld.local.v2.u32 {%w8, %w9}, [own+8];");
    same("st.local.v4.u32 [own], {%w1, %w1, %w0, %w1};\nld.local.v4.u32 {_, _, %w9, _}, [own];");
    same("st.local.v2.b64 [own], {%d1, %d0};\nld.local.u32 %w9, [own+8];");
    same(
        "mov.u64 %d8, place;\ncvta.shared.u64 %d8, %d8;\nmul.wide.u32 %d7, %w1, 8;\nadd.u64 %d8, %d8, %d7;\n\
          st.u64 [%d8], %d0;\nisspacep.shared %p9, %d8;\n@%p9 ld.u32 %w9, [%d8];\n",
    );
    same("ld.global.nc.u32 %w9, [%d20];");
    same("ld.volatile.global.u32 %w9, [%d20];");
    let found = body("mov.u32 %w8, -5;\nst.local.u8 [own], %w8;\nld.local.s8 %w9, [own];");
    assert!(found.iter().all(|&x| x as u16 == -5i16 as u16));
    let found = results(
        &format!("{header}mov.u32 %w8, -5;\nst.local.u32 [own], %w8;\nld.local.s32 %d9, [own];"),
        &lanes(),
    );
    assert!(found.iter().all(|row| row[1] == -5i64 as u64));
}

#[test]
fn atomics_return_what_was_there() {
    let with = |code: &str| {
        words(&format!(
            ".shared .align 4 .b8 place[4];\nsetp.eq.u32 %p5, %w1, 0;\n@%p5 st.shared.u32 [place], 1000;\n\
             bar.warp.sync -1;\n{code}\nbar.warp.sync -1;\n"
        ))
    };
    let read = "\nbar.warp.sync -1;\nld.shared.u32 %w9, [place];";
    let total = |code: &str, value: u64| assert_eq!(with(&format!("{code}{read}"))[5], value, "{code}");
    let mut found = with("atom.shared.add.u32 %w9, [place], 2;");
    found.sort_unstable();
    assert!((0..32).all(|i| found[i] == 1000 + 2 * i as u64));
    total("red.shared.add.u32 [place], %w1;", 1496);
    total("atom.shared.max.s32 %w8, [place], %w0;", 1000);
    total("atom.shared.min.u32 %w8, [place], %w0;", 100);
    total("atom.shared.and.b32 %w8, [place], 8;", 8);
    total("atom.shared.or.b32 %w8, [place], 7;", 1007);
    total("atom.shared.xor.b32 %w8, [place], 7;", 1000);
    total("atom.shared.exch.b32 %w8, [place], 3;", 3);
    total("atom.shared.cas.b32 %w8, [place], 1000, 7;", 7);
    total("atom.shared.inc.u32 %w8, [place], 1010;", 21);
    total("atom.shared.dec.u32 %w8, [place], 5000;", 968);
    let float =
        "@%p5 st.shared.f32 [place], 0f3F800000;\nbar.warp.sync -1;\nred.shared.add.f32 [place], 0f3F800000;";
    total(float, f(33.0));
}

#[test]
fn cp_async_arrives_when_it_is_waited_for() {
    let code = ".shared .align 16 .b8 place[1024];\nshl.b32 %w8, %w1, 4;\n\
                cp.async.cg.shared.global [%w8], [%d20], 16, 16;\ncp.async.commit_group;\n\
                cp.async.ca.shared.global [%w8+512], [%d20], 8, 4;\ncp.async.commit_group;\n\
                cp.async.wait_group 1;\nld.shared.u32 %w9, [%w8];\n";
    assert!((0..32).all(|lane| words(code)[lane] == lane as u64 + 100));
    let zeros = format!("{code}cp.async.wait_all;\nld.shared.u32 %w7, [%w8+516];\nadd.u32 %w9, %w9, %w7;");
    assert!((0..32).all(|lane| words(&zeros)[lane] == lane as u64 + 100));
}

#[test]
fn specials_name_the_thread() {
    assert_eq!(words("mov.u32 %w9, %laneid;")[7], 7);
    assert_eq!(words("mov.u32 %w9, %lanemask_lt;")[3], 7);
    assert_eq!(words("mov.u32 %w9, %lanemask_ge;")[31], 1 << 31);
    assert_eq!(words("mov.u32 %w9, %ntid.x;")[3], 32);
    assert_eq!(words("mov.u32 %w9, WARP_SZ;")[3], 32);
}

#[test]
fn an_unknown_instruction_is_refused_with_its_line() {
    let error = Module::parse(&kernel("frob.u32 %w9, %w0;")).unwrap_err();
    assert_eq!(error.to_string(), "line 29 of the PTX: unknown instruction `frob.u32`");
    let error = Module::parse(&kernel("add.u32 %w9, %w0;")).unwrap_err();
    assert!(error.to_string().contains("`add.u32` takes 3 operands, not 2"), "{error}");
    let error = Module::parse(&kernel("add.u32 %w9, %d0, 1;")).unwrap_err();
    assert!(error.to_string().contains("`%d0` is of another size"), "{error}");
    let error = Module::parse(&kernel("bra NOWHERE;")).unwrap_err();
    assert!(error.to_string().contains("no label `NOWHERE`"), "{error}");
}
