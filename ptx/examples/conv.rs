//! conv2d of the project's PTX against a float64 formula, with its speed: conv PATH [checks] [count].
use ptx::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let module = Module::parse(&std::fs::read_to_string(&args[1]).unwrap()).unwrap();
    let checks = args.iter().any(|a| a == "checks");
    let count = args.iter().any(|a| a == "count");
    let (n, h, w, ci, co) = (4usize, 16, 16, 64, 64);
    let options = Options { checks: if checks { Checks::ALL } else { Checks::NONE }, threads: 1, order: Order::Forward, count };
    let mut memory = Memory::new(checks);
    let mut put = |x: &[f32]| {
        let at = memory.allocate(4 * x.len()).unwrap();
        memory.write(at, &x.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        at
    };
    let mut s = 1u32;
    let mut random = |n: usize| -> Vec<f32> {
        (0..n).map(|_| { s = s.wrapping_mul(1664525).wrapping_add(1013904223); (s >> 8) as f32 / (1 << 24) as f32 - 0.5 }).collect()
    };
    let (x, wt) = (random(n * h * w * ci), random(co * 9 * ci));
    let (dx, dw) = (put(&x), put(&wt));
    let panels = memory.allocate(4 * 9 * ci * 64).unwrap();
    let y = memory.allocate(4 * n * h * w * co).unwrap();
    let mut params = Vec::new();
    let pack = |params: &mut Vec<u8>, bytes: &[u8]| { while params.len() % bytes.len() != 0 { params.push(0); } params.extend(bytes); };
    for p in [dw, 0, panels] { pack(&mut params, &p.to_le_bytes()); }
    for v in [co as i32, 9, ci as i32] { pack(&mut params, &v.to_le_bytes()); }
    pack(&mut params, &[0]);
    let launch = Launch { grid: [(9 * ci as u32).div_ceil(16), 1, 1], block: [256, 1, 1], dynamic_shared: 0, params: &params };
    run(&module, "conv2d_prepare", &launch, &mut memory, &options).unwrap_or_else(|f| panic!("{f}"));
    let mut params = Vec::new();
    for p in [dx, panels, 0, 0, y, 0, 0] { pack(&mut params, &p.to_le_bytes()); }
    pack(&mut params, &[0]);
    for v in [n, h, w, ci, h, w, co, 3, 3, 1, 1] { pack(&mut params, &(v as i32).to_le_bytes()); }
    let blocks = (n * h * w).div_ceil(128) as u32;
    let launch = Launch { grid: [blocks, 1, 1], block: [128, 1, 1], dynamic_shared: 0, params: &params };
    let start = std::time::Instant::now();
    let counts = run(&module, "conv2d_forward", &launch, &mut memory, &options).unwrap_or_else(|f| panic!("{f}"));
    let time = start.elapsed();
    let mut out = vec![0; 4 * n * h * w * co];
    memory.read(y, &mut out).unwrap();
    let mut worst = 0f64;
    for i in 0..n { for oy in 0..h { for ox in 0..w { for c in (0..co).step_by(17) {
        let mut sum = 0f64;
        for ky in 0..3 { for kx in 0..3 {
            let (iy, ix) = (oy + ky, ox + kx);
            if iy < 1 || ix < 1 || iy > h || ix > w { continue; }
            for k in 0..ci { sum += x[((i * h + iy - 1) * w + ix - 1) * ci + k] as f64 * wt[(c * 9 + ky * 3 + kx) * ci + k] as f64; }
        }}
        let at = 4 * (((i * h + oy) * w + ox) * co + c);
        worst = worst.max((f32::from_le_bytes(out[at..at + 4].try_into().unwrap()) as f64 - sum).abs());
    }}}}
    println!("worst {worst:e} {time:?} {:?}", counts.total);
    if count { println!("{:.0} M thread-instructions/s", counts.total.thread_instructions as f64 / time.as_secs_f64() / 1e6); }
}
