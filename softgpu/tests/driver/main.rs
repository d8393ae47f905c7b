//! Each function of the driver, each documented misuse and each injected failure, on the built library.

mod basics;
mod capture;
mod faults;
mod harness;
mod launch;
mod memory;
mod streams;
