//! GPUs by name, with figures that NVIDIA has published. What is not published is not in the table.

use serde::Serialize;

/// A GPU. Rates are those at the published boost clock, dense; bytes of memory per second as the data sheet
/// says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// As `--gpu` names it.
    pub name: &'static str,
    pub title: &'static str,
    /// The name by which its driver knows it.
    pub driver: &'static str,
    /// Where the figures come from.
    pub source: &'static str,
    /// Compute capability.
    pub capability: (u32, u32),
    pub multiprocessors: u32,
    pub boost_mhz: u32,
    /// Bytes of memory, and bytes of it per second.
    pub memory: u64,
    pub bandwidth: f64,
    /// Bytes of the L2 cache, and the bytes that it delivers per clock where that is published.
    pub l2: u64,
    pub l2_per_clock: Option<u32>,
    /// Operations per second of the tensor cores with tf32, bf16 and f16, which accumulate in f32; 0 where
    /// they do not have the type.
    pub tensor: [f64; 3],
}

/// What a multiprocessor of a compute capability holds and does per clock: the tables "Technical
/// Specifications" and "Throughput of Native Arithmetic Instructions" of the CUDA C++ Programming Guide, and
/// the drawings of a multiprocessor in the architectures' white papers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    pub warps: u32,
    pub blocks: u32,
    pub registers: u32,
    /// Bytes of shared memory: of all blocks, of one block on request, and what the system reserves of each.
    pub shared: u32,
    pub shared_of_block: u32,
    pub shared_reserved: u32,
    pub shared_unit: u32,
    /// Warp instructions per clock.
    pub issued: u32,
    /// Lanes per clock: float32 and packed half additions, multiplications and FMAs; special functions;
    /// float64; loads and stores; shuffles.
    pub fp32: u32,
    pub half2: u32,
    pub special: u32,
    pub fp64: u32,
    pub load_store: u32,
    pub shuffle: u32,
    /// Bytes of L1 and shared memory, which share one path.
    pub l1_bytes: u32,
}

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const GB: u64 = 1_000_000_000;

/// The table.
pub const GPUS: &[Gpu] = &[
    Gpu {
        name: "h200",
        title: "NVIDIA H200 SXM",
        driver: "NVIDIA H200",
        source: "NVIDIA H200 data sheet; H100 architecture white paper",
        capability: (9, 0),
        multiprocessors: 132,
        boost_mhz: 1980,
        memory: 141 * GB,
        bandwidth: 4.8e12,
        l2: 50 * MIB,
        l2_per_clock: None,
        tensor: [494.7e12, 989.4e12, 989.4e12],
    },
    Gpu {
        name: "h100",
        title: "NVIDIA H100 SXM",
        driver: "NVIDIA H100 80GB HBM3",
        source: "NVIDIA H100 data sheet and architecture white paper",
        capability: (9, 0),
        multiprocessors: 132,
        boost_mhz: 1980,
        memory: 80 * GIB,
        bandwidth: 3.35e12,
        l2: 50 * MIB,
        l2_per_clock: None,
        tensor: [494.7e12, 989.4e12, 989.4e12],
    },
    Gpu {
        name: "a100-80gb",
        title: "NVIDIA A100 SXM 80 GB",
        driver: "NVIDIA A100-SXM4-80GB",
        source: "NVIDIA A100 data sheet and architecture white paper",
        capability: (8, 0),
        multiprocessors: 108,
        boost_mhz: 1410,
        memory: 80 * GIB,
        bandwidth: 2.039e12,
        l2: 40 * MIB,
        l2_per_clock: Some(5120),
        tensor: [156e12, 312e12, 312e12],
    },
    Gpu {
        name: "a100-40gb",
        title: "NVIDIA A100 SXM 40 GB",
        driver: "NVIDIA A100-SXM4-40GB",
        source: "NVIDIA A100 data sheet and architecture white paper",
        capability: (8, 0),
        multiprocessors: 108,
        boost_mhz: 1410,
        memory: 40 * GIB,
        bandwidth: 1.555e12,
        l2: 40 * MIB,
        l2_per_clock: Some(5120),
        tensor: [156e12, 312e12, 312e12],
    },
    Gpu {
        name: "rtx4090",
        title: "NVIDIA GeForce RTX 4090",
        driver: "NVIDIA GeForce RTX 4090",
        source: "NVIDIA Ada GPU architecture white paper",
        capability: (8, 9),
        multiprocessors: 128,
        boost_mhz: 2520,
        memory: 24 * GIB,
        bandwidth: 1.008e12,
        l2: 72 * MIB,
        l2_per_clock: None,
        tensor: [82.6e12, 165.2e12, 165.2e12],
    },
    Gpu {
        name: "l4",
        title: "NVIDIA L4",
        driver: "NVIDIA L4",
        source: "NVIDIA L4 data sheet; Ada GPU architecture white paper",
        capability: (8, 9),
        multiprocessors: 58,
        boost_mhz: 2040,
        memory: 24 * GIB,
        bandwidth: 300e9,
        l2: 48 * MIB,
        l2_per_clock: None,
        tensor: [60e12, 121e12, 121e12],
    },
    Gpu {
        name: "t4",
        title: "NVIDIA T4",
        driver: "Tesla T4",
        source: "NVIDIA T4 data sheet; Turing architecture white paper",
        capability: (7, 5),
        multiprocessors: 40,
        boost_mhz: 1590,
        memory: 16 * GIB,
        bandwidth: 320e9,
        l2: 4 * MIB,
        l2_per_clock: None,
        tensor: [0.0, 0.0, 65e12],
    },
];

/// The GPU of this name.
pub fn find(name: &str) -> Option<&'static Gpu> {
    GPUS.iter().find(|gpu| gpu.name == name)
}

/// The GPU that a driver calls so.
pub fn of_driver(name: &str) -> Option<&'static Gpu> {
    GPUS.iter().find(|gpu| gpu.driver == name)
}

impl Gpu {
    pub fn limits(&self) -> Limits {
        let hopper = Limits {
            warps: 64,
            blocks: 32,
            registers: 65_536,
            shared: 228 << 10,
            shared_of_block: 227 << 10,
            shared_reserved: 1 << 10,
            shared_unit: 128,
            issued: 4,
            fp32: 128,
            half2: 128,
            special: 16,
            fp64: 64,
            load_store: 32,
            shuffle: 32,
            l1_bytes: 128,
        };
        match self.capability {
            (7, _) => Limits {
                warps: 32,
                blocks: 16,
                shared: 64 << 10,
                shared_of_block: 64 << 10,
                shared_reserved: 0,
                shared_unit: 256,
                fp32: 64,
                half2: 64,
                fp64: 2,
                load_store: 16,
                ..hopper
            },
            (8, 0) => Limits { shared: 164 << 10, shared_of_block: 163 << 10, fp32: 64, fp64: 32, ..hopper },
            (8, _) => Limits {
                warps: 48,
                blocks: 24,
                shared: 100 << 10,
                shared_of_block: 99 << 10,
                half2: 64,
                fp64: 2,
                load_store: 16,
                ..hopper
            },
            _ => hopper,
        }
    }

    /// Clocks per second.
    pub fn clock(&self) -> f64 {
        self.boost_mhz as f64 * 1e6
    }

    /// Operations per second in float32.
    pub fn fp32(&self) -> f64 {
        2.0 * self.limits().fp32 as f64 * self.multiprocessors as f64 * self.clock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The peaks that the data sheets print, in TFLOP/s, follow from multiprocessors, lanes and clock.
    #[test]
    fn the_printed_peaks_follow_from_the_table() {
        let printed = [
            ("h200", 67.0),
            ("h100", 67.0),
            ("a100-80gb", 19.5),
            ("a100-40gb", 19.5),
            ("rtx4090", 82.6),
            ("l4", 30.3),
            ("t4", 8.1),
        ];
        assert_eq!(GPUS.len(), printed.len());
        for (name, teraflops) in printed {
            let peak = find(name).unwrap().fp32() / 1e12;
            assert!((peak - teraflops).abs() < 0.1, "{name}: {peak}");
        }
        assert_eq!(find("h300"), None);
    }

    /// Dense operations per clock and multiprocessor, as the architectures' white papers draw the tensor
    /// cores: a printed peak is that of a clock up to 8 % below the boost clock, as the H100's is.
    #[test]
    fn the_peaks_of_tensor_cores_follow_from_their_widths() {
        let widths = [
            ("h200", 4096.0),
            ("h100", 4096.0),
            ("a100-80gb", 2048.0),
            ("a100-40gb", 2048.0),
            ("rtx4090", 512.0),
            ("l4", 1024.0),
            ("t4", 1024.0),
        ];
        assert_eq!(GPUS.len(), widths.len());
        for (name, width) in widths {
            let gpu = find(name).unwrap();
            let [tf32, bf16, f16] = gpu.tensor;
            let share = f16 / (width * gpu.multiprocessors as f64 * gpu.clock());
            assert!((0.92..1.01).contains(&share), "{name}: {share}");
            let turing = gpu.capability < (8, 0);
            assert!(if turing { [tf32, bf16] == [0.0; 2] } else { bf16 == f16 }, "{name}");
            assert!(turing || (tf32 / bf16 - 0.5).abs() < 0.005, "{name}");
        }
    }

    #[test]
    fn drivers_names_are_of_one_gpu_each() {
        for gpu in GPUS {
            assert_eq!(of_driver(gpu.driver).map(|found| found.name), Some(gpu.name));
        }
        assert_eq!(of_driver("NVIDIA H200 NVL"), None, "another card, with another peak");
    }
}
