fn main() {
    for path in std::env::args().skip(1) {
        let text = std::fs::read_to_string(&path).expect("readable");
        let start = std::time::Instant::now();
        match ptx::Module::parse(&text) {
            Err(error) => println!("{path}: {error}"),
            Ok(module) => {
                let most = module.kernels().map(|kernel| kernel.rows()).max();
                let n: usize = module.kernels().map(|kernel| kernel.instructions()).sum();
                println!("{path}: {n} {most:?} {:?}", start.elapsed());
            }
        }
    }
}
