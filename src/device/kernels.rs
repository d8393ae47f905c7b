//! One module per file of `kernels/`, with its PER_DEVICE constants and a typed launcher per kernel. Written by
//! `build.rs`.

use super::{Arg, Buffer, Device, Grid, IntoArg, Kernel, PerDevice, Source};
use crate::error::Result;

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));
