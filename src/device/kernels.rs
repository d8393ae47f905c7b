//! One module per file of `kernels/`, with its CONFIG constants and a typed launcher per kernel. Written by
//! `build.rs`.

use super::{Arg, Buffer, Device, Grid, IntoArg, Kernel, PerDevice, Source};
use crate::error::Result;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// The kernels of `kernels/conformance`, which test the devices and are no part of the program.
#[cfg(test)]
pub mod conformance {
    use super::*;

    #[link(name = "saddle_conformance", kind = "static")]
    unsafe extern "C" {}

    include!(concat!(env!("OUT_DIR"), "/conformance.rs"));
}
