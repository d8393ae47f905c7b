//! The threads that run blocks: rayon's global pool, with as many threads as the machine lets it have.

use rayon::ThreadPoolBuilder;
use std::sync::Once;

/// Threads per core that are too many: they wait for each other at every launch.
const OVERSUBSCRIPTION: usize = 4;

/// Makes the pool, once: a thread per core, or as many as `RAYON_NUM_THREADS` asks for. Where the system
/// allows no further thread, all blocks run on the caller's.
pub fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|value| value.parse().ok());
        let asked = asked.filter(|threads| *threads > 0).unwrap_or(cores);
        let threads = asked.min(OVERSUBSCRIPTION * cores);
        if threads < asked {
            eprintln!(
                "note: RAYON_NUM_THREADS = {asked}: this machine has {cores} cores; using {threads} threads"
            );
        }
        // A global pool that fails is never made again: a pool to throw away shows whether it would.
        let builder = match ThreadPoolBuilder::new().num_threads(threads).build() {
            Ok(_) => ThreadPoolBuilder::new().num_threads(threads),
            Err(reason) => {
                eprintln!("note: {reason}; using one thread");
                ThreadPoolBuilder::new().num_threads(1).use_current_thread()
            }
        };
        // An error means that the program has made the pool before.
        let _ = builder.build_global();
    });
}
