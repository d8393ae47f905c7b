//! `mma`, `ldmatrix` and `stmatrix` against the fragment layouts of the ISA, element by element.

mod common;
use common::*;
use ptx::{Module, Options};

fn module(body: &str) -> Module {
    let text = format!(
        ".version 8.3\n.target sm_90\n.address_size 64\n.visible .entry t(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .b64 %rd<9>;\n.reg .b32 %r<40>;\n.shared .align 16 .b8 place[1024];\n\
         ld.param.u64 %rd1, [in];\nld.param.u64 %rd2, [out];\nmov.u32 %r0, %tid.x;\n\
         mad.wide.u32 %rd1, %r0, 64, %rd1;\nmad.wide.u32 %rd2, %r0, 16, %rd2;\n{body}\nret;\n}}\n"
    );
    Module::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs on 16 words a lane, and returns 4 words a lane.
fn fragments(body: &str, words: &[u32]) -> Vec<u32> {
    let mut device = Device::new(Options::default());
    let values: Vec<f32> = words.iter().map(|&x| f32::from_bits(x)).collect();
    let (from, to) = (device.floats(&values), device.empty(32 * 4));
    device.run(&module(body), "t", [1; 3], 32, &[Pointer(from), Pointer(to)]);
    device.read(to, 32 * 4).iter().map(|x| x.to_bits()).collect()
}

const LOAD: &str = "ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd1];\nld.global.v2.u32 {%r8, %r9}, [%rd1+16];\n\
                    ld.global.v4.u32 {%r12, %r13, %r14, %r15}, [%rd1+32];\n";
const STORE: &str = "\nst.global.v4.u32 [%rd2], {%r16, %r17, %r18, %r19};";

/// Numbers that every format holds exactly.
fn matrix(seed: u32, rows: usize, columns: usize) -> Vec<Vec<f32>> {
    let values = random(seed, rows * columns);
    values.chunks(columns).map(|row| row.iter().map(|x| (x * 8.0).round() / 4.0).collect()).collect()
}

fn multiply(a: &[Vec<f32>], b: &[Vec<f32>], c: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let entry = |i: usize, j: usize| c[i][j] + (0..b.len()).map(|k| a[i][k] * b[k][j]).sum::<f32>();
    (0..16).map(|i| (0..8).map(|j| entry(i, j)).collect()).collect()
}

fn half(x: f32, brain: bool) -> u32 {
    let bits = x.to_bits();
    if brain {
        return bits >> 16;
    }
    let exponent = (bits >> 23 & 0xff) as i32 - 112;
    if x == 0.0 { 0 } else { bits >> 16 & 0x8000 | (exponent as u32) << 10 | bits >> 13 & 0x3ff }
}

#[test]
fn tf32_fragments_are_those_of_the_isa() {
    for k in [4, 8] {
        let (a, b, c) = (matrix(1, 16, k), matrix(2, k, 8), matrix(3, 16, 8));
        let mut words = vec![0u32; 32 * 16];
        for lane in 0..32 {
            let (group, place) = (lane / 4, lane % 4);
            for i in 0..k / 2 {
                // Rows: group for a0 and a2, group + 8 for a1 and a3; columns: place, then place + 4.
                let (row, column) =
                    (group + if i % 2 == 1 { 8 } else { 0 }, place + if i >= 2 { 4 } else { 0 });
                // The low 13 bits do not count.
                words[16 * lane + i] = a[row][column].to_bits() | 0x1fff;
            }
            for i in 0..k / 4 {
                words[16 * lane + 4 + i] = b[place + 4 * i][group].to_bits();
            }
            for i in 0..4 {
                words[16 * lane + 8 + i] = c[group + if i < 2 { 0 } else { 8 }][2 * place + i % 2].to_bits();
            }
        }
        let (a_registers, b_registers) =
            if k == 8 { ("%r4, %r5, %r6, %r7", "%r8, %r9") } else { ("%r4, %r5", "%r8") };
        let body = format!(
            "{LOAD}mma.sync.aligned.m16n8k{k}.row.col.f32.tf32.tf32.f32 {{%r16, %r17, %r18, %r19}}, {{{a_registers}}}, \
             {{{b_registers}}}, {{%r12, %r13, %r14, %r15}};{STORE}"
        );
        expect(&fragments(&body, &words), &multiply(&a, &b, &c));
    }
}

fn expect(found: &[u32], d: &[Vec<f32>]) {
    for lane in 0..32 {
        for i in 0..4 {
            let expected = d[lane / 4 + if i < 2 { 0 } else { 8 }][lane % 4 * 2 + i % 2];
            assert_eq!(f32::from_bits(found[4 * lane + i]), expected, "lane {lane}, register {i}");
        }
    }
}

#[test]
fn sixteen_bit_fragments_are_those_of_the_isa() {
    for (name, brain, k) in [("bf16", true, 16), ("f16", false, 16), ("bf16", true, 8), ("f16", false, 8)] {
        let (a, b, c) = (matrix(1, 16, k), matrix(2, k, 8), matrix(3, 16, 8));
        let mut words = vec![0u32; 32 * 16];
        for lane in 0..32 {
            let (group, place) = (lane / 4, lane % 4);
            for i in 0..k / 2 {
                // Element i: row group for i in {0, 1, 4, 5}, else group + 8; column + 8 from i = 4 on.
                let row = group + if i % 4 < 2 { 0 } else { 8 };
                let column = 2 * place + i % 2 + if i >= 4 { 8 } else { 0 };
                words[16 * lane + i / 2] |= half(a[row][column], brain) << (16 * (i % 2));
            }
            for i in 0..k / 4 {
                let row = 2 * place + i % 2 + if i >= 2 { 8 } else { 0 };
                words[16 * lane + 4 + i / 2] |= half(b[row][group], brain) << (16 * (i % 2));
            }
            for i in 0..4 {
                words[16 * lane + 8 + i] = c[group + if i < 2 { 0 } else { 8 }][2 * place + i % 2].to_bits();
            }
        }
        let (a_registers, b_registers) =
            if k == 16 { ("%r4, %r5, %r6, %r7", "%r8, %r9") } else { ("%r4, %r5", "%r8") };
        let body = format!(
            "{LOAD}mma.sync.aligned.m16n8k{k}.row.col.f32.{name}.{name}.f32 {{%r16, %r17, %r18, %r19}}, \
             {{{a_registers}}}, {{{b_registers}}}, {{%r12, %r13, %r14, %r15}};{STORE}"
        );
        expect(&fragments(&body, &words), &multiply(&a, &b, &c));
    }
}

#[test]
fn matrices_go_to_and_from_shared_memory() {
    // Lane l stores row l of 8 halves, numbered by its place in memory: 8 l + j.
    let fill = "shl.b32 %r1, %r0, 4;\nmul.lo.u32 %r2, %r0, 524296;\nadd.u32 %r2, %r2, 65536;\n\
                add.u32 %r3, %r2, 131074;\nadd.u32 %r4, %r3, 131074;\nadd.u32 %r5, %r4, 131074;\n\
                st.shared.v4.u32 [%r1], {%r2, %r3, %r4, %r5};\nbar.warp.sync -1;\n";
    let words = vec![0; 32 * 16];
    let body = |load: &str| format!("{fill}{load}{STORE}");
    let number = |found: &[u32], lane: usize, matrix: usize, half: usize| {
        found[4 * lane + matrix] >> (16 * half) & 0xffff
    };
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r16, %r17, %r18, %r19}, [%r1];";
    let found = fragments(&body(load), &words);
    let transposed = "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r16, %r17, %r18, %r19}, [%r1];";
    let columns = fragments(&body(transposed), &words);
    for (lane, matrix, half) in (0..256).map(|i| (i / 8, i / 2 % 4, i % 2)) {
        let (row, column) = (lane / 4, lane % 4 * 2 + half);
        assert_eq!(number(&found, lane, matrix, half) as usize, 64 * matrix + 8 * row + column);
        assert_eq!(number(&columns, lane, matrix, half) as usize, 64 * matrix + 8 * column + row);
    }
    for trans in ["", ".trans"] {
        let back = format!(
            "ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%r20, %r21, %r22, %r23}}, [%r1];\nbar.warp.sync -1;\n\
             stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r1+512], {{%r20, %r21, %r22, %r23}};\nbar.warp.sync -1;\n\
             ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r16, %r17, %r18, %r19}}, [%r1+512];"
        );
        assert_eq!(fragments(&body(&back), &words), found);
    }
}
