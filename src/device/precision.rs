//! The precision of products.

use serde::Serialize;
use strum::{Display, VariantArray};

/// The numbers that convolutions multiply. Master weights, statistics, losses and images are float32 in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Display, VariantArray, Serialize)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32.
    #[default]
    F32,
    /// float32 in memory, 10 bits after the point in products.
    Tf32,
    /// bf16 in memory and in products: 7 bits after the point.
    Bf16,
}

impl Precision {
    /// The precision of a kernel's products. Tensor cores are for kernels with `mma` in their names, and
    /// multiply bf16 where those say so, else tf32; all others multiply float32, whatever lies in memory.
    pub(super) fn of_kernel(name: &str) -> Precision {
        match (name.contains("mma"), name.contains("bf16")) {
            (true, true) => Precision::Bf16,
            (true, false) => Precision::Tf32,
            (false, _) => Precision::F32,
        }
    }
}
