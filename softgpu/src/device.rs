//! The imaginary GPU.

use std::str::FromStr;

/// The architecture that programs are to compile for. The device reports a compute capability that NVRTC does
/// not know, one above it, so that programs hand PTX to the driver and not a cubin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// 90 for `compute_90`.
    pub number: u32,
    /// Shared memory of a multiprocessor, in KiB.
    shared_kib: usize,
    pub threads_per_multiprocessor: u32,
    pub blocks_per_multiprocessor: u32,
}

/// The shared memory that the system keeps of each block, from `compute_80` on.
const RESERVED_SHARED: usize = 1024;
/// What every block may have without asking.
pub const SHARED_DEFAULT: usize = 48 << 10;
pub const MAX_THREADS: u32 = 1024;
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// As `cuDriverGetVersion` reports it.
pub const DRIVER_VERSION: i32 = 13050;
pub const MULTIPROCESSORS: u32 = 8;
const REGISTERS: u32 = 65536;

const ARCHS: [Arch; 4] = [
    Arch { number: 75, shared_kib: 64, threads_per_multiprocessor: 1024, blocks_per_multiprocessor: 16 },
    Arch { number: 80, shared_kib: 164, threads_per_multiprocessor: 2048, blocks_per_multiprocessor: 32 },
    Arch { number: 90, shared_kib: 228, threads_per_multiprocessor: 2048, blocks_per_multiprocessor: 32 },
    Arch { number: 121, shared_kib: 100, threads_per_multiprocessor: 1536, blocks_per_multiprocessor: 24 },
];

impl FromStr for Arch {
    type Err = ();

    fn from_str(text: &str) -> Result<Arch, ()> {
        ARCHS.into_iter().find(|arch| arch.number.to_string() == text).ok_or(())
    }
}

impl Arch {
    pub const DEFAULT: Arch = ARCHS[2];

    pub fn capability(self) -> (u32, u32) {
        ((self.number + 1) / 10, (self.number + 1) % 10)
    }

    pub fn name(self) -> String {
        format!("Software GPU (compute_{})", self.number)
    }

    fn shared_per_multiprocessor(self) -> usize {
        self.shared_kib << 10
    }

    fn reserved_shared(self) -> usize {
        if self.number >= 80 { RESERVED_SHARED } else { 0 }
    }

    /// What a block may have at most, on request.
    pub fn shared_opt_in(self) -> usize {
        self.shared_per_multiprocessor() - self.reserved_shared()
    }

    /// Whether the driver can translate PTX for `target`, such as `sm_90`. Code with the suffix `a` or `f`
    /// runs on its own architecture only.
    pub fn runs(self, target: &str) -> bool {
        let target = target.split(',').next().unwrap_or(target).trim();
        let digits = target.strip_prefix("sm_").unwrap_or("");
        digits.parse::<u32>().is_ok_and(|number| number <= self.number + 1)
    }

    /// The value of a `CU_DEVICE_ATTRIBUTE`; 0 for one that says that something is not there.
    pub fn attribute(self, attribute: i32) -> Option<i32> {
        let (major, minor) = self.capability();
        let value = match attribute {
            1 => MAX_THREADS,
            2..=4 => MAX_BLOCK[attribute as usize - 2],
            5..=7 => MAX_GRID[attribute as usize - 5],
            // MAX_SHARED_MEMORY_PER_BLOCK and TOTAL_CONSTANT_MEMORY
            8 => SHARED_DEFAULT as u32,
            9 => 64 << 10,
            // WARP_SIZE, MAX_PITCH, MAX_REGISTERS_PER_BLOCK, CLOCK_RATE in kHz, TEXTURE_ALIGNMENT,
            // GPU_OVERLAP
            10 => 32,
            11 => i32::MAX as u32,
            12 => REGISTERS,
            13 => 1_000_000,
            14 => 512,
            15 => 1,
            16 => MULTIPROCESSORS,
            // CONCURRENT_KERNELS, PCI_DEVICE_ID
            31 | 34 => 1,
            // MEMORY_CLOCK_RATE in kHz, GLOBAL_MEMORY_BUS_WIDTH in bits, L2_CACHE_SIZE
            36 => 1_000_000,
            37 => 256,
            38 => 4 << 20,
            39 => self.threads_per_multiprocessor,
            // ASYNC_ENGINE_COUNT, UNIFIED_ADDRESSING
            40 | 41 => 1,
            75 => major,
            76 => minor,
            81 => self.shared_per_multiprocessor() as u32,
            82 => REGISTERS,
            97 => self.shared_opt_in() as u32,
            106 => self.blocks_per_multiprocessor,
            111 => self.reserved_shared() as u32,
            // MEMORY_POOLS_SUPPORTED
            115 => 1,
            ..1 | 162.. => return None,
            _ => 0,
        };
        Some(value as i32)
    }
}
